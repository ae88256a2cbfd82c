"""Models as points of two measures, with their intervals both ways: what is given up for what is gained."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from adhere.records import Measurement
from adhere.report.figures import COLOURS, SYMBOLS, Figure, finished_figure
from adhere.report.tables import show

_FAR = 3.0
_TICKS = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 2, 5)]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows: its words, its form (`percent`, `number`), and which way is better."""

    label: str
    form: str = "number"
    better: str = ""

    def shown(self, value: float) -> float:
        """The value in the axis's unit."""
        return 100 * value if self.form == "percent" else value


@dataclass(frozen=True, slots=True)
class Point:
    """A model with both measures. Points of one series look alike and share their place in the legend."""

    label: str
    x: Measurement
    y: Measurement
    series: str = ""  # the label where it is empty


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined in order: a front, a curve over a setting."""

    label: str
    points: Sequence[tuple[float, float]]
    texts: Sequence[str] = ()  # written beside the points
    ringed: bool = False  # a ring round every point
    named: bool = True  # in the legend


def scatter_figure(
    key: str, title: str, points: Sequence[Point], x: Axis, y: Axis, lines: Sequence[Line] = ()
) -> Figure:
    """A point a model, named in the legend, and lines through some of them."""
    figure, series = go.Figure(), list(dict.fromkeys(point.series or point.label for point in points))
    for line in lines:
        figure.add_scatter(
            name=html.escape(line.label),
            x=[x.shown(a) for a, _ in line.points],
            y=[y.shown(b) for _, b in line.points],
            mode="lines+markers+text" if line.texts else "lines+markers",
            text=[html.escape(text) for text in line.texts],
            textposition="top right",
            marker={"size": 21, "symbol": "circle-open", "color": "#8a8f98", "line": {"width": 1.5}}
            if line.ringed
            else {"size": 4, "color": "#8a8f98"},
            line={"dash": "dot", "width": 2, "color": "#8a8f98"},
            hoverinfo="skip",
            showlegend=line.named,
        )
    for point in points:
        place = series.index(point.series or point.label)
        # Colour and symbol go round at different speeds, so that no two of the first twenty-five look alike.
        colour, symbol = COLOURS[place % len(COLOURS)], SYMBOLS[(place + place // len(COLOURS)) % len(SYMBOLS)]
        name = html.escape(point.label)
        figure.add_scatter(
            name=html.escape(series[place]),
            legendgroup=html.escape(series[place]),
            showlegend=next(p for p in points if (p.series or p.label) == series[place]) is point,
            x=[x.shown(point.x.value)],
            y=[y.shown(point.y.value)],
            error_x=_reach(point.x, x),
            error_y=_reach(point.y, y),
            mode="markers",
            marker={"size": 11, "symbol": symbol, "color": colour},
            hovertemplate=f"{html.escape(x.label)} %{{x:.4g}}<br>{html.escape(y.label)} %{{y:.4g}}<extra>{name}</extra>",
        )
    figure.update_xaxes(title=_titled(x))
    if _spread([point.x.value for point in points], x):
        figure.update_xaxes(type="log", tickvals=_TICKS, ticktext=[f"{tick:,g}" for tick in _TICKS])
    figure.update_yaxes(title=_titled(y), rangemode="tozero" if y.form == "percent" else "normal")
    told = "; ".join(f"{p.label}: {show(p.x.value, x.form)}, {show(p.y.value, y.form)}" for p in points)
    summary = f"{x.label} and {y.label} of each model. {told}."
    return finished_figure(key, title, summary, figure, height=420 + 12 * len(points), many=True)


def _spread(values: Sequence[float], axis: Axis) -> bool:
    """Whether numbers lie so far apart, perplexities before and after a corpus was learned, that equal ratios say more."""
    return axis.form == "number" and min(values) > 0 and max(values) > _FAR * min(values)


def _reach(measured: Measurement, axis: Axis) -> dict[str, object]:
    if measured.low is None or measured.high is None:
        return {"visible": False}
    return {
        "type": "data",
        "symmetric": False,
        "array": [axis.shown(measured.high - measured.value)],
        "arrayminus": [axis.shown(measured.value - measured.low)],
        "thickness": 1.5,
        "width": 4,
    }


def _titled(axis: Axis) -> str:
    unit = ", %" if axis.form == "percent" else ""
    return f"{html.escape(axis.label)}{unit}" + (f" ({axis.better} is better)" if axis.better else "")
