"""Measurements as tables of text: the same for a page, a terminal and a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adhere.records import Measurement

MODELS = {"before": "before fine-tuning", "sft": "plain fine-tuning", "constrained": "constrained fine-tuning"}
"""The models of a comparison by the tag `model`, in the order of tables; others follow under their own names."""

_COLUMN_TAGS = ("constraint", "judge", "suite", "domain", "k", "seed")  # tags that make another column


@dataclass(frozen=True, slots=True)
class Measure:
    """How a named number is shown: its heading, its form (percent, number, seconds), which way is better."""

    label: str
    form: str = "number"
    better: str = ""


MEASURES = {
    "violation_rate": Measure("violations", "percent", "lower"),
    "judge_violation_rate": Measure("violations, second judge", "percent", "lower"),
    "clean_perplexity": Measure("perplexity, clean text", better="lower"),
    "corpus_perplexity": Measure("perplexity, held-out corpus", better="lower"),
    "distinct_2": Measure("distinct-2", better="higher"),
    "train_seconds": Measure("training time", "seconds"),
    "emt": Measure("expected maximum toxicity", better="lower"),
    "toxicity_probability": Measure("toxicity probability", "percent", "lower"),
    "toxicity_fraction": Measure("toxicity fraction", "percent", "lower"),
    "repetition": Measure("repeated 4-grams", "percent", "lower"),
    "looping": Measure("outputs with a loop", "percent", "lower"),
    "empty_rate": Measure("empty outputs", "percent", "lower"),
    "mean_length": Measure("mean length (words)"),
}
MAIN = (
    "violation_rate",
    "judge_violation_rate",
    "clean_perplexity",
    "corpus_perplexity",
    "distinct_2",
    "train_seconds",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text, and its 95 % interval where it has one."""

    text: str = "—"
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.interval}]" if self.interval else self.text


@dataclass(frozen=True, slots=True)
class Column:
    """One measure, under one constraint or judge or setting."""

    name: str
    tags: tuple[tuple[str, str], ...]
    label: str
    better: str  # "lower", "higher" or ""


@dataclass(frozen=True, slots=True)
class Row:
    """One model, or the ratio of two."""

    key: str  # the tag `model`; "ratio" for the last row
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows of text."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def plain(self) -> list[list[str]]:
        """The header, then the rows, as text: for a terminal or a Markdown table."""
        header = ["", *(column.label for column in self.columns)]
        return [header, *([row.label, *map(str, row.cells)] for row in self.rows)]


def results_table(measurements: Sequence[Measurement], names: Sequence[str] = MAIN) -> Table | None:
    """One row a model, one column a measure (several where constraints or judges are), and a last row of ratios.

    A ratio is constrained over plain fine-tuning (over the model before, where there is no plain one): the measurement
    `<name>_ratio` with its interval where there is one, else the quotient alone.

    Returns:
        the table, or None when none of the names was measured.
    """
    columns = [column for name in names for column in columns_of(measurements, name)]
    models = models_of([m for m in measurements if m.name in names])
    if not columns or not models:
        return None
    found = {column: {model: find(measurements, column, model) for model in models} for column in columns}
    rows = [Row(model, model_label(model), tuple(cell(found[column][model]) for column in columns)) for model in models]
    over = next((model for model in ("sft", "before") if model in models), None)
    if "constrained" in models and over is not None:
        ratios = [_ratio(measurements, column, found[column], over) for column in columns]
        rows.append(Row("ratio", f"constrained ÷ {'plain' if over == 'sft' else 'before'}", tuple(ratios)))
    return Table("Each model on the same prompts; 95 % intervals below the numbers", tuple(columns), tuple(rows))


def other_names(measurements: Sequence[Measurement]) -> list[str]:
    """The names measured that the main table leaves out: known ones in their order, then the others."""
    names = dict.fromkeys(m.name for m in measurements if m.tags.get("model") and not m.name.endswith("_ratio"))
    known = [name for name in MEASURES if name in names and name not in MAIN]
    return known + [name for name in names if name not in MEASURES]


def models_of(measurements: Sequence[Measurement]) -> list[str]:
    """The models measured: before, sft and constrained first, then others as they come."""
    return order_models([m.tags["model"] for m in measurements if "model" in m.tags and not m.name.endswith("_ratio")])


def order_models(names: Sequence[str]) -> list[str]:
    """Names of models without repeats: before, sft and constrained first, then others as they come."""
    return [model for model in MODELS if model in names] + [m for m in dict.fromkeys(names) if m not in MODELS]


def model_label(model: str) -> str:
    """What tables call a model."""
    return MODELS.get(model, model)


def find(measurements: Sequence[Measurement], column: Column, model: str) -> Measurement | None:
    """The measurement of a column for one model."""
    fitting = (m for m in measurements if m.name == column.name and m.tags.get("model") == model)
    return next((m for m in fitting if _column_tags(m) == column.tags), None)


def columns_of(measurements: Sequence[Measurement], name: str) -> list[Column]:
    """The columns one measure needs: one for each constraint, judge or setting it was measured under."""
    mine = [m for m in measurements if m.name == name and "model" in m.tags]
    groups = list(dict.fromkeys(_column_tags(m) for m in mine))
    measure = MEASURES.get(name, Measure(name.replace("_", " ")))
    # A tag that is the same everywhere says nothing in a heading, but k, which is part of the number.
    telling = {key for key in _COLUMN_TAGS if key == "k" or len({dict(tags).get(key) for tags in groups}) > 1}
    columns = []
    for tags in groups:
        details = [f"k = {value}" if key == "k" else value for key, value in tags if key in telling]
        columns.append(Column(name, tags, " · ".join([measure.label, *details]), measure.better))
    return columns


def cell(measured: Measurement | None, form: str | None = None) -> Cell:
    """A measurement as text, in the form of its name."""
    if measured is None:
        return Cell()
    form = form or MEASURES.get(measured.name, Measure("")).form
    interval = ""
    if measured.low is not None and measured.high is not None:
        ends = show(measured.low, form, bare=True), show(measured.high, form, bare=True)
        interval = " to ".join(ends)
    return Cell(show(measured.value, form), interval)


def show(value: float, form: str = "number", bare: bool = False) -> str:
    """A number as text: `percent` of a share, `seconds` as a duration, `ratio`, or a plain `number`; bare: no unit."""
    if form == "percent":
        return f"{100 * value:.1f}" if bare else f"{100 * value:.1f} %"
    if form == "seconds":
        return _duration(value)
    if form == "ratio":
        return f"{value:.3f}" if bare else f"{value:.3f} ×"
    if value == int(value) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 1000 else f"{value:,.1f}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _column_tags(measured: Measurement) -> tuple[tuple[str, str], ...]:
    return tuple((key, measured.tags[key]) for key in _COLUMN_TAGS if key in measured.tags)


def _ratio(
    measurements: Sequence[Measurement], column: Column, by_model: Mapping[str, Measurement | None], over: str
) -> Cell:
    measured = find(measurements, replace(column, name=f"{column.name}_ratio"), "constrained")
    if measured is not None and measured.tags.get("over", over) == over:
        return cell(measured, "ratio")
    above, below = by_model["constrained"], by_model[over]
    if above is None or below is None or below.value == 0:
        return Cell()
    return Cell(show(above.value / below.value, "ratio"))
