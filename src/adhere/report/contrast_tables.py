"""Each model against the reference, as tables of text: differences and ratios, with what says how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adhere.records import Measurement
from adhere.report.suites import suite_tables
from adhere.report.tables import (
    MEASURES,
    Cell,
    Measure,
    Row,
    Table,
    columns_of,
    find,
    model_label,
    models_of,
    show,
)

UNPAIRED_MARK = "†"
DIFFERENCE, RATIO = "_difference", "_ratio"


def difference_table(contrasts: Sequence[Measurement], reference: str, names: Sequence[str]) -> Table | None:
    """One row a model, one column a measure: how far above the reference; None where nothing was compared."""
    caption = f"Difference to {model_label(reference)}; 95 % intervals below the numbers, p where there is a test"
    return _table(contrasts, DIFFERENCE, names, caption)


def ratio_table(contrasts: Sequence[Measurement], reference: str, names: Sequence[str]) -> Table | None:
    """One row a model, one column a measure: how many times the reference; None where nothing was compared."""
    return _table(contrasts, RATIO, names, f"Times {model_label(reference)}; 95 % intervals below the numbers")


def suite_difference_tables(contrasts: Sequence[Measurement], reference: str) -> list[Table]:
    """For each suite, how far every model is above the reference: one row a measure, one column a model."""
    mine = [m for m in contrasts if m.name.endswith(DIFFERENCE) and "suite" in m.tags and "group" not in m.tags]
    stripped = [replace(m, name=m.name.removesuffix(DIFFERENCE)) for m in mine]

    def shown(measured: Measurement | None, form: str) -> Cell:
        return Cell() if measured is None else contrast_cell(measured, measured.name, form)

    what = f"difference to {model_label(reference)}; 95 % intervals below the numbers"
    return [each.table for each in suite_tables(stripped, {}, what, shown)]


def contrast_cell(measured: Measurement, name: str, form: str | None = None) -> Cell:
    """A difference or ratio as text, in the form of the measure it is of."""
    form = form or ("ratio" if measured.name.endswith(RATIO) else MEASURES.get(name, Measure("")).form)
    is_ratio = form == "ratio"
    mark = UNPAIRED_MARK if "unpaired" in measured.tags else ""
    interval = ""
    if measured.low is not None and measured.high is not None:
        ends = [show(end, form, bare=True) if is_ratio else signed(end, form) for end in (measured.low, measured.high)]
        interval = " to ".join(ends)
    if "p" in measured.tags:
        interval += f"{'; ' if interval else ''}{told_p(measured.tags['p'])}"
    return Cell((show(measured.value, form) if is_ratio else signed(measured.value, form, unit=True)) + mark, interval)


def signed(value: float, form: str, unit: bool = False) -> str:
    """A difference as text: its sign always there, rates in percentage points."""
    number = show(abs(value), form, bare=form != "seconds")
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{number}" + (" points" if unit and form == "percent" else "")


def told_p(p: str) -> str:
    """A p-value as text, never as zero; a bootstrap of 2,000 resamples cannot tell what is below 0.001."""
    told = "p ≤ 0.001" if float(p) <= 0.001 else f"p = {float(p):.2g}"
    return told.replace(" ", "\N{NO-BREAK SPACE}")


def _table(contrasts: Sequence[Measurement], kind: str, names: Sequence[str], caption: str) -> Table | None:
    mine = [m for m in contrasts if m.name.endswith(kind) and "suite" not in m.tags]
    stripped = [replace(m, name=m.name.removesuffix(kind)) for m in mine]
    columns = [column for name in names for column in columns_of(stripped, name)]
    models = models_of([m for m in stripped if m.name in names])
    if not columns or not models:
        return None
    rows = []
    for model in models:
        found = [find(stripped, column, model) for column in columns]
        cells = [Cell() if m is None else contrast_cell(replace(m, name=m.name + kind), m.name) for m in found]
        rows.append(Row(model, model_label(model), tuple(cells)))
    if any(UNPAIRED_MARK in cell.text for row in rows for cell in row.cells):
        caption += f". {UNPAIRED_MARK} not asked the same: intervals without pairs"
    return Table(caption, tuple(columns), tuple(rows))
