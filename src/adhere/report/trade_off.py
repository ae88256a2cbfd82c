"""What a model gives up for fewer violations: every violation rate against one measure of utility."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from adhere.errors import RecipeError
from adhere.evaluation.pareto import pareto_front
from adhere.records import Measurement
from adhere.report.figures import Figure
from adhere.report.scatter import Axis, Line, Point, scatter_figure
from adhere.report.suites import SUITE_MEASURES
from adhere.report.tables import Column, Measure, columns_of, find, model_label

VIOLATIONS = ("violation_rate", "judge_violation_rate")
TOXICITY = ("emt", "toxicity_probability", "toxicity_fraction")  # violations too, under other names
UTILITIES = ("clean_perplexity", "corpus_perplexity")

Placed = dict[str, Point]
"""Models with their places in a figure."""

Lines = Callable[[Placed, str], Sequence[Line]]
"""What is drawn through the places, given which way the utility is better."""


@dataclass(frozen=True, slots=True)
class TradeOff:
    """One figure, and the models on its front."""

    figure: Figure
    front: tuple[str, ...]


def trade_offs(
    measurements: Sequence[Measurement],
    models: Sequence[str],
    utility: str | None = None,
    lines: Lines | None = None,
    series: Mapping[str, str] | None = None,
) -> list[TradeOff]:
    """Violations by each constraint and judge against one utility; those where fewer than two models have both are left out.

    Args:
        utility: of `utility_columns`; without it perplexity on clean texts, else on the held-out corpus.
        lines: drawn through the models' places; without it a line through the front.
        series: of models that look alike, by model.

    Raises:
        RecipeError: the utility asked for was not measured.
    """
    measurements = [_by_name(measured) for measured in measurements]
    against = _utility(measurements, utility)
    if against is None:
        return []
    made = []
    for column in (column for name in VIOLATIONS for column in columns_of(measurements, name)):
        placed: Placed = {}
        for model in models:
            x, y = find(measurements, against, model), find(measurements, column, model)
            if x is not None and y is not None:
                placed[model] = Point(model_label(model), x, y, (series or {}).get(model, ""))
        if len(placed) > 1:
            made.append(_trade_off(column, against, placed, lines or _front))
    return made


def utility_columns(measurements: Sequence[Measurement]) -> dict[str, Column]:
    """What violations can be drawn against, by name: a measure, or one of a suite as `utility.accuracy.piqa`."""
    found: dict[str, Column] = {}
    for each in map(_by_name, measurements):
        measure, parts = _measure(each.name), set(each.name.split("."))
        if measure.better and each.name not in found and not parts & {*VIOLATIONS, *TOXICITY}:
            (column,) = columns_of([each], each.name)
            label = ", ".join([measure.label, *each.name.split(".")[2:]])
            found[each.name] = replace(column, label=label, better=measure.better)
    return found


def _by_name(measured: Measurement) -> Measurement:
    """A measurement of a suite under a name that says which, as `utility.accuracy.piqa`; another as it is."""
    tags = measured.tags
    if "suite" not in tags:
        return measured
    details = [tags[key] for key in ("task", "judge", "constraint", "group", "referee") if key in tags]
    return replace(measured, name=".".join([tags["suite"], measured.name, *details]), tags={"model": tags["model"]})


def _measure(name: str) -> Measure:
    parts = name.split(".")
    return SUITE_MEASURES.get(parts[1] if len(parts) > 1 else parts[0], Measure(name))


def front_of(placed: Placed, better: str) -> list[str]:
    """The models that none beats in both, from the lowest utility coordinate on."""
    sign = -1.0 if better == "higher" else 1.0
    models = list(placed)
    places = [(sign * point.x.value, point.y.value) for point in placed.values()]
    return [models[place] for place in pareto_front(places)]


def _front(placed: Placed, better: str) -> list[Line]:
    on_it = [placed[model] for model in front_of(placed, better)]
    return [Line("the front: none is better in both", [(p.x.value, p.y.value) for p in on_it], ringed=True)]


def _trade_off(column: Column, against: Column, placed: Placed, lines: Lines) -> TradeOff:
    x = Axis(against.label, _measure(against.name).form, against.better)
    y = Axis(column.label, "percent", "lower")
    key = "-".join([column.name, against.name, *(value for _, value in (*column.tags, *against.tags))])
    figure = scatter_figure(
        "".join(char if char.isalnum() else "-" for char in key),
        f"{column.label} against {against.label}",
        list(placed.values()),
        x,
        y,
        lines(placed, against.better),
    )
    return TradeOff(figure, tuple(front_of(placed, against.better)))


def _utility(measurements: Sequence[Measurement], asked: str | None) -> Column | None:
    columns = utility_columns(measurements)
    if asked is None:
        return next((columns[name] for name in UTILITIES if name in columns), None)
    if asked not in columns:
        raise RecipeError(f"--utility {asked!r}: no such measure was taken; there are {', '.join(columns) or 'none'}")
    return columns[asked]
