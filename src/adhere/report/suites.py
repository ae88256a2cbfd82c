"""What suites measured, as a table for each: one row a measure, one column a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from adhere.records import Measurement
from adhere.report.tables import MEASURES, Cell, Column, Measure, Row, Table, cell, model_label, order_models

SUITES = ("toxicity", "utility", "quality", "detection", "bias")
"""In the order of a report; others follow."""

SUITE_MEASURES = {
    **MEASURES,
    "accuracy": Measure("accuracy", "percent", "higher"),
    "accuracy_plain": Measure("accuracy", "percent", "higher"),
    "short_rate": Measure("outputs under three words", "percent"),
    "distinct_1": Measure("distinct-1", better="higher"),
    "distinct_3": Measure("distinct-3", better="higher"),
    "output_perplexity": Measure("perplexity of the outputs", better="lower"),
    "mauve": Measure("MAUVE", better="higher"),
    "win_rate": Measure("win rate", "percent", "higher"),
    "roc_auc": Measure("ROC-AUC", better="higher"),
    "yes_rate": Measure("texts called toxic", "percent"),
    "refusal_rate": Measure("refusals", "percent"),
    "refusal_gap": Measure("refusals, unsafe − safe", "percent", "higher"),
    "identity_perplexity": Measure("perplexity, texts on identities", better="lower"),
    "swapped_perplexity": Measure("perplexity, identities swapped"),
    "identity_perplexity_ratio": Measure("perplexity, swapped ÷ original"),
    "identity_score_shift": Measure("p(toxic), swapped − original"),
    "identity_score_change": Measure("|p(toxic), swapped − original|", better="lower"),
}

FEW_GROUPS = 4
"""More groups than this have a table of their own."""

_ROW_TAGS = ("task", "metric", "shots", "constraint", "judge", "referee", "against", "group", "k", "limit", "rows")
"""Tags that make another row, in the order in which a row's heading has them."""


Shown = Callable[[Measurement | None, str], Cell]


@dataclass(frozen=True, slots=True)
class SuiteTable:
    """A suite's table, and sentences on what was not measured or how it is to be read."""

    suite: str
    table: Table
    by_group: Table | None  # what was measured group by group, where the groups are many
    notes: tuple[str, ...]


def suite_tables(
    measurements: Sequence[Measurement],
    notes: Mapping[tuple[str, str], Sequence[str]],
    what: str = "each model on the same rows; 95 % intervals",
    shown: Shown | None = None,
) -> list[SuiteTable]:
    """A table for each suite.

    Args:
        measurements: with the tags `suite` and `model`.
        notes: by suite and model.
        what: the caption, after the suite's name.
        shown: makes a cell of a measurement and the form of its measure; without it the number with its interval.
    """
    found = dict.fromkeys([each.tags.get("suite", "") for each in measurements] + [suite for suite, _ in notes])
    suites = [suite for suite in SUITES if suite in found] + [s for s in found if s and s not in SUITES]
    tables = []
    for suite in suites:
        mine = [each for each in measurements if each.tags.get("suite") == suite]
        groups = {each.tags["group"] for each in mine if "group" in each.tags}
        many = len(groups) > FEW_GROUPS
        apart = [each for each in mine if many and "group" in each.tags]
        rest = _table(f"{suite}: {what}", [each for each in mine if each not in apart], shown or _cell)
        by_group = _table(f"{suite} by group: {what}", apart, shown or _cell) if many else None
        tables.append(SuiteTable(suite, rest, by_group, _notes(suite, notes)))
    return tables


def _table(caption: str, measured: Sequence[Measurement], shown: Shown) -> Table:
    models = order_models([each.tags["model"] for each in measured if "model" in each.tags])
    rows: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Measurement]] = {}
    for each in measured:
        tags = tuple((key, each.tags[key]) for key in _ROW_TAGS if key in each.tags)
        rows.setdefault((each.name, tags), {})[each.tags.get("model", "")] = each
    columns = tuple(Column(model, (), model_label(model), "") for model in models)
    made = [_row(name, dict(tags), by_model, models, shown) for (name, tags), by_model in rows.items()]
    labels = [row.label for row in made]
    # Two rows that read alike were measured on other data: say so.
    told = [
        replace(row, label=f"{row.label}, on rows {dict(tags).get('rows', 'not known')}")
        if labels.count(row.label) > 1
        else row
        for row, (_, tags) in zip(made, rows, strict=True)
    ]
    return Table(caption, columns, tuple(told))


def _row(
    name: str, tags: Mapping[str, str], by_model: Mapping[str, Measurement], models: Sequence[str], shown: Shown
) -> Row:
    measure = SUITE_MEASURES.get(name, Measure(name.replace("_", " ")))
    said = {
        "k": "k = {}",
        "against": "against {}",
        "referee": "by {}",
        "judge": "by {}",
        "constraint": "by {}, trained against",
    }
    details = [
        said.get(key, "{}").format(value)
        for key, value in tags.items()
        if key not in ("task", "limit", "rows", "shots") or (key == "shots" and value != "0")
    ]
    details = [f"{detail} examples" if tags.get("shots") == detail else detail for detail in details]
    counts = {each.n for each in by_model.values()}
    details += [f"n = {counts.pop():,}"] if len(counts) == 1 and counts != {0} else []
    task = f"{tags['task']}: " if "task" in tags else ""
    label = f"{task}{measure.label}" + (f" ({', '.join(details)})" if details else "")
    return Row("", label, tuple(shown(by_model.get(model), measure.form) for model in models))


def _cell(measured: Measurement | None, form: str) -> Cell:
    shown = cell(measured, form)
    missing = (measured.tags.get("no_verdict") or "0") if measured is not None else "0"
    if missing == "0":
        return shown
    return Cell(shown.text, "; ".join(filter(None, [shown.interval, f"{missing} without a verdict"])))


def _notes(suite: str, notes: Mapping[tuple[str, str], Sequence[str]]) -> tuple[str, ...]:
    """Each once, with the models that it is about."""
    about: dict[str, list[str]] = {}
    for (of_suite, model), sentences in notes.items():
        for sentence in sentences if of_suite == suite else ():
            about.setdefault(sentence, []).append(model_label(model))
    return tuple(f"{', '.join(models)}: {sentence}" for sentence, models in about.items())
