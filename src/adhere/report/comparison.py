"""Runs side by side, as a page: the trade-off, every number, each model against the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adhere.evaluation.side_by_side import Comparison
from adhere.records import Measurement
from adhere.report.contrast_tables import (
    contrast_cell,
    difference_table,
    ratio_table,
    suite_difference_tables,
    told_p,
)
from adhere.report.model_table import models_table
from adhere.report.page import Page, Section, render_page
from adhere.report.suites import suite_tables
from adhere.report.tables import MAIN, Cell, Column, Row, Table, cell, columns_of, find, model_label, other_names
from adhere.report.trade_off import VIOLATIONS, TradeOff, trade_offs


def comparison_page(comparison: Comparison, date: str, command: str, utility: str | None = None) -> str:
    """The page as text.

    Args:
        utility: what violations are drawn against (`trade_off.utility_columns` lists what there is).

    Raises:
        RecipeError: that was not measured.
    """
    trades = trade_offs(comparison.measurements, comparison.models, utility)
    return render_page(
        Page(
            brand="comparison",
            name=", ".join(map(model_label, comparison.models[:4]))
            + (f" and {len(comparison.models) - 4} more" if len(comparison.models) > 4 else ""),
            headline=told(comparison),
            date=date,
            command=command,
            remarks=comparison.remarks,
            sections=list(_sections(comparison, trades)),
        )
    )


def _sections(comparison: Comparison, trades: Sequence[TradeOff]) -> Iterator[Section]:
    held_out = [m for m in comparison.measurements if "suite" not in m.tags]
    others = other_names(held_out)
    if trades:
        yield Section(
            "trade-off",
            "Violations against utility",
            sentences=[_front_told(trades[0], comparison)],
            figures=[trade.figure for trade in trades],
        )
    main, more = (models_table(held_out, comparison.models, names) for names in (MAIN, others))
    yield Section("result", "Every model", tables=_there(main), folded=_titled("More measurements", more))
    contrasts, reference = comparison.contrasts, comparison.reference
    yield Section(
        "against",
        f"Against {model_label(reference)}",
        sentences=[_how_compared(comparison)],
        tables=_there(difference_table(contrasts, reference, MAIN), ratio_table(contrasts, reference, MAIN)),
        folded=[
            *_titled("More differences", difference_table(contrasts, reference, others)),
            *_titled("More ratios", ratio_table(contrasts, reference, others)),
        ],
    )
    yield from _suites(comparison)
    yield Section("runs", "What was compared", tables=[_facts(comparison)])


def _suites(comparison: Comparison) -> Iterator[Section]:
    found = suite_tables([m for m in comparison.measurements if "suite" in m.tags], {})
    if found:
        reference = model_label(comparison.reference)
        folded = [(f"{each.suite} by group", each.by_group) for each in found if each.by_group is not None]
        differences = suite_difference_tables(comparison.contrasts, comparison.reference)
        folded += [(f"Difference to {reference}: {t.caption.partition(':')[0]}", t) for t in differences]
        yield Section("suites", "Suites", tables=[each.table for each in found], folded=folded, rows_are="measure")


def _there(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _titled(title: str, table: Table | None) -> list[tuple[str, Table]]:
    return [(title, table)] if table is not None else []


def told(comparison: Comparison) -> list[str]:
    """For each constraint and judge, which model violates least, and what that is against the reference."""
    sentences = []
    for name in VIOLATIONS:
        for column in columns_of([m for m in comparison.measurements if "suite" not in m.tags], name):
            found = [(model, find(comparison.measurements, column, model)) for model in comparison.models]
            rates = [(measured.value, model, measured) for model, measured in found if measured is not None]
            if rates:
                _, model, least = min(rates, key=lambda rate: rate[0])
                sentences.append(_least(comparison, column, model, least, len(rates)))
    return sentences


def _least(comparison: Comparison, column: Column, model: str, least: Measurement, of: int) -> str:
    tags = dict(column.tags)
    whose = f"“{tags['judge']}”, a second judge" if "judge" in tags else f"“{tags.get('constraint', 'the constraint')}”"
    reference = model_label(comparison.reference)
    below = find(comparison.measurements, column, comparison.reference)
    if below is not None and below.value == least.value:
        return f"Of {of} models, none violates {whose} less than {reference}: {_with_interval(cell(below))} of its outputs."
    sentence = f"Of {of} models, {model_label(model)} violates {whose} least: {_with_interval(cell(least))}"
    sentence += " of its outputs"
    found = {
        kind: find(comparison.contrasts, Column(f"{column.name}_{kind}", column.tags, "", ""), model)
        for kind in ("difference", "ratio")
    }
    if below is not None:
        sentence += f", against {_with_interval(cell(below))} of {reference}"
    if found["ratio"] is not None:
        sentence += f"; that is {_with_interval(contrast_cell(found['ratio'], column.name))} as often"
    if found["difference"] is not None and "p" in found["difference"].tags:
        difference = found["difference"].tags
        sentence += f" ({told_p(difference['p'])}, {difference['test']})"
    return sentence + "."


def _with_interval(shown: Cell) -> str:
    return f"{shown.text} ({shown.interval})" if shown.interval else shown.text


def _front_told(trade: TradeOff, comparison: Comparison) -> str:
    models = ", ".join(map(model_label, trade.front))
    rest = len(comparison.models) - len(trade.front)
    beaten = (
        "every other model is no better in either and worse in one than some of these" if rest else "none beats another"
    )
    return f"On the front: {models}; {beaten}. Intervals are not taken into account."


def _how_compared(comparison: Comparison) -> str:
    methods = dict.fromkeys(m.tags["test"] for m in comparison.contrasts if "test" in m.tags)
    tested = f" p of violations: {', '.join(methods)}." if methods else ""
    return (
        "Prompts (and texts) are drawn again for both models together, so that what is hard for both cancels; p and intervals "
        f"are of one comparison each, not corrected for their number.{tested}"
    )


def _facts(comparison: Comparison) -> Table:
    keys = list(dict.fromkeys(key for facts in comparison.facts.values() for key in facts))
    columns = tuple(Column(key, (), key, "") for key in keys)
    rows = [
        Row(model, model_label(model), tuple(Cell(comparison.facts[model].get(key, "—")) for key in keys))
        for model in comparison.models
    ]
    return Table("Where each model is from", columns, tuple(rows))
