"""The figures, as Plotly specifications (plain JSON): drawn in the page, where a reader can zoom and read values off.

Colours are told apart by people with any colour vision, hold 3 : 1 against a light and a dark page, and never carry the
meaning alone: every line is named in a legend and every model stands on a row of its own.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import plotly.graph_objects as go

from adhere.records import Measurement
from adhere.report.run_files import Json, number
from adhere.report.tables import columns_of, find, model_label, models_of, show

COLOURS = ("#2f86c9", "#d4631c", "#12947a", "#b45c9b", "#8a7a10")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")

Line = tuple[list[float], list[float]]  # steps, values


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its title and the sentence that says what is in it to somebody who cannot see it."""

    key: str
    title: str
    summary: str
    spec: Mapping[str, object]
    height: int = 260


def violations_figure(measurements: Sequence[Measurement]) -> Figure | None:
    """Violation rates of the models with their intervals, one symbol a judge; None when none was measured."""
    columns = [c for name in ("violation_rate", "judge_violation_rate") for c in columns_of(measurements, name)]
    models = models_of([m for m in measurements if m.name in ("violation_rate", "judge_violation_rate")])
    if not columns:
        return None
    figure, told = go.Figure(), []
    for place, column in enumerate(columns):
        found = [(model, m) for model in models if (m := find(measurements, column, model)) is not None]
        figure.add_scatter(
            name=html.escape(column.label),
            # Rows are numbers so that the symbols of a row can stand apart.
            y=[models.index(model) + 0.16 * (place - (len(columns) - 1) / 2) for model, _ in found],
            x=[100 * m.value for _, m in found],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * ((m.high if m.high is not None else m.value) - m.value) for _, m in found],
                "arrayminus": [100 * (m.value - (m.low if m.low is not None else m.value)) for _, m in found],
                "thickness": 2,
                "width": 5,
            },
            mode="markers",
            marker={"size": 11, "symbol": SYMBOLS[place % len(SYMBOLS)], "color": COLOURS[place % len(COLOURS)]},
            text=[html.escape(model_label(model)) for model, _ in found],
            hovertemplate="%{text}: %{x:.1f} %<extra>" + html.escape(column.label) + "</extra>",
        )
        rates = ", ".join(f"{model_label(model)} {show(m.value, 'percent')}" for model, m in found)
        told.append(f"{column.label}: {rates}")
    labels = [html.escape(model_label(model)) for model in models]
    rows = list(range(len(models)))
    figure.update_yaxes(tickvals=rows, ticktext=labels, range=[len(models) - 0.5, -0.5], showgrid=False)
    figure.update_xaxes(title="outputs that violate, %", rangemode="tozero")
    height = 110 + len(models) * (30 + 16 * len(columns))
    return finished_figure("violations", "Violations by model", "; ".join(told) + ".", figure, height=height, many=True)


def training_figures(log: Sequence[Json]) -> list[Figure]:
    """The curves over training that the log has: corpus loss, KL, satisfaction on fresh samples, guidance quality."""
    losses = {"corpus loss": _line(log, "corpus_loss")}
    if not losses["corpus loss"][0]:
        losses = {"loss": _line(log, "loss")}
    kl = {f"constraint {name}": _line(log, f"kl/{name}") for name in _names(log, "kl/")} or {"KL": _line(log, "kl")}
    quality: dict[str, Line] = {}
    for name in _names(log, "nado/"):
        for key, label in (("auc", "held-out ROC-AUC"), ("calibration_error", "calibration error")):
            quality[f"{label}, {name}"] = _line(log, f"nado/{name}/{key}")
    multipliers = {name: _line(log, f"multiplier/{name}") for name in _names(log, "multiplier/")}
    losses |= {f"domain {name}": _line(log, f"domain/{name}/corpus_loss") for name in _names(log, "domain/")}
    kl |= {f"to the reference, {name}": _kept(log, name) for name in _names(log, "domain/")}
    drawn = [
        _curves("loss", "Loss on the corpus", "nats per token", losses),
        _curves("kl", "KL(q* ‖ model): what the regulariser has left to do", "nats per token", kl, tozero=True),
        _satisfaction(log),
        _curves(
            "multiplier", "λ of the constraints for which it is found", "λ", multipliers, log_scale=True, shape="hv"
        ),
        _curves("quality", "How well the guidance predicts satisfaction", "", quality, tozero=True),
    ]
    return [figure for figure in drawn if figure is not None]


def _satisfaction(log: Sequence[Json]) -> Figure | None:
    names = _names(log, "satisfaction/")
    figure, lines = go.Figure(), {name: _line(log, f"satisfaction/{name}") for name in names}
    for place, name in enumerate(names):
        lows, highs = _line(log, f"satisfaction/{name}/low"), _line(log, f"satisfaction/{name}/high")
        if lows[0] and lows[0] == highs[0]:
            figure.add_scatter(
                x=lows[0] + highs[0][::-1],
                y=lows[1] + highs[1][::-1],
                mode="lines",
                fill="toself",
                fillcolor=_transparent(COLOURS[place % len(COLOURS)]),
                line={"width": 0 if len(lows[0]) > 1 else 2, "color": COLOURS[place % len(COLOURS)]},
                hoverinfo="skip",
                showlegend=False,
            )
        _add_line(figure, name, lines[name], place)
        target = _line(log, f"target/{name}")
        if target[0]:
            target = ([target[0][0], lines[name][0][-1]], [target[1][-1]] * 2)
            _add_line(figure, f"target of {name}", target, place, mode="lines", dash="dot")
    figure.update_yaxes(title="share of samples", tickformat=".0%")
    title = "Satisfaction on fresh samples, with 95 % interval"
    return _curves_figure("satisfaction", title, lines, figure)


def _curves(
    key: str,
    title: str,
    unit: str,
    lines: Mapping[str, Line],
    tozero: bool = False,
    log_scale: bool = False,
    shape: str = "linear",
) -> Figure | None:
    figure = go.Figure()
    for place, (name, line) in enumerate(lines.items()):
        _add_line(figure, name, line, place, shape=shape)
    figure.update_yaxes(title=unit, rangemode="tozero" if tozero else "normal", type="log" if log_scale else "-")
    return _curves_figure(key, title, lines, figure)


def _add_line(
    figure: go.Figure, name: str, line: Line, place: int, mode: str = "", dash: str = "", shape: str = "linear"
) -> None:
    if line[0]:
        colour, symbol = COLOURS[place % len(COLOURS)], SYMBOLS[place % len(SYMBOLS)]
        mode = mode or ("lines+markers" if len(line[0]) <= 30 else "lines")
        dash = dash or ("solid", "dash", "dot", "dashdot", "longdash")[place % 5]
        marker = {"symbol": symbol, "size": 7}
        look = {"color": colour, "width": 2, "dash": dash, "shape": shape}
        figure.add_scatter(x=line[0], y=line[1], name=html.escape(name), mode=mode, line=look, marker=marker)


def _curves_figure(key: str, title: str, lines: Mapping[str, Line], figure: go.Figure) -> Figure | None:
    told = [_told(name, line) for name, line in lines.items() if line[0]]
    if not told:
        return None
    figure.update_xaxes(title="step")
    return finished_figure(key, title, " ".join(told), figure, many=len(told) > 1)


def _told(name: str, line: Line) -> str:
    steps, values = line
    if len(steps) == 1:
        return f"{name}: {show(values[0])} at step {steps[0]:.0f}."
    return f"{name}: {show(values[0])} at step {steps[0]:.0f}, {show(values[-1])} at step {steps[-1]:.0f}."


def finished_figure(
    key: str, title: str, summary: str, figure: go.Figure, height: int = 260, many: bool = False
) -> Figure:
    """A figure in the look that all of a page have; many: it needs a legend."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 60, "r": 12, "t": 34 if many else 10, "b": 46},
        showlegend=many,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return Figure(key, title, summary, cast("dict[str, object]", json.loads(figure.to_json())), height)


def _names(log: Sequence[Json], prefix: str) -> list[str]:
    """The constraints named in keys `prefix<constraint>` or `prefix<constraint>/<what>`, in order of appearance."""
    endings = (
        "/low", "/high", "/auc", "/calibration_error", "/saturation", "/corpus_loss", "/reference_kl", "/kl",
    )  # fmt: skip
    names: dict[str, None] = {}
    for entry in log:
        for key in entry:
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                ending = next((ending for ending in endings if name.endswith(ending)), "")
                names.setdefault(name.removesuffix(ending))
    return [name for name in names if not any(name.startswith(f"{other}/") for other in names)]


def _kept(log: Sequence[Json], domain: str) -> Line:
    """KL to the reference of a domain that is held to it; no line where it is 0 throughout."""
    line = _line(log, f"domain/{domain}/reference_kl")
    return line if any(line[1]) else ([], [])


def _line(log: Sequence[Json], key: str) -> Line:
    """Where a key was logged: steps and values, a later entry of the same step in place of an earlier one."""
    points: dict[float, float] = {}
    for entry in log:
        # What was measured on the samples of an earlier policy stands where that policy stood.
        step, value = number(entry.get("policy_step", entry.get("step"))), number(entry.get(key))
        if step is not None and value is not None:
            points[step] = value
    return sorted(points), [points[step] for step in sorted(points)]


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
