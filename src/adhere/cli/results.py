"""A run's results as a table on the terminal: one row a measure, one column a model, and their ratio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from adhere.cli.screen import say, visible
from adhere.records import EvaluationResult, Measurement
from adhere.report.headline import headline
from adhere.report.run_files import read_run
from adhere.report.tables import Cell, Table, results_table


def show_results(folder: Path, fresh: EvaluationResult | None = None) -> None:
    """Print the comparison that a run folder holds, and the result in a sentence; nothing if nothing was measured.

    Args:
        folder: the run.
        fresh: what has just been measured, in place of what `summary.json` says of that model.
    """
    measurements = read_run(folder).measurements
    if fresh is not None:
        measurements = [*(m for m in measurements if not _of(m, fresh.model)), *_tagged(fresh)]
    table = results_table(measurements)
    if table is None:
        return
    say("", drawn(table), *(Text(visible(sentence)) for sentence in headline(measurements)))


def drawn(table: Table) -> RichTable:
    """The table with its rows and columns exchanged, so that it fits a terminal; intervals below the numbers."""
    rich = RichTable(
        title="Outputs on held-out prompts, with 95 % intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_lines=True,
        padding=(0, 1),
    )
    rich.add_column("", overflow="fold")
    for row in table.rows:
        rich.add_column(Text(visible(row.label.removesuffix(" fine-tuning"))), justify="right", overflow="fold")
    for number, column in enumerate(table.columns):
        cells = [row.cells[number] for row in table.rows]
        rich.add_row(Text(visible(column.label)), *map(_numbers, cells))
    return rich


def _numbers(cell: Cell) -> Text:
    # Without a space, so that the words of the first column are broken over lines before an interval is.
    return Text.assemble(cell.text, ("\n" + cell.interval.replace(" to ", "–") if cell.interval else "", "dim"))


def _tagged(result: EvaluationResult) -> list[Measurement]:
    return [replace(m, tags={**m.tags, "model": result.model}) for m in result.measurements]


def _of(measurement: Measurement, model: str) -> bool:
    """Whether it is of this model, or compares it."""
    return model in (measurement.tags.get("model"), measurement.tags.get("over"))
