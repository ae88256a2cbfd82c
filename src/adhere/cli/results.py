"""A run's results as a table on the terminal: one row a measure, one column a model, and their ratio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from adhere.cli.screen import grid, say, visible
from adhere.records import EvaluationResult, Measurement
from adhere.report.headline import headline
from adhere.report.run_files import read_run
from adhere.report.tables import Table, results_table


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
    rich = grid("Outputs on held-out prompts, with 95 % intervals", ["", *(row.label for row in table.rows)], ())
    for number, column in enumerate(table.columns):
        cells = [row.cells[number] for row in table.rows]
        lines = [(cell.text, ("\n" + cell.interval if cell.interval else "", "dim")) for cell in cells]
        rich.add_row(Text(visible(column.label)), *(Text.assemble(*line) for line in lines))
    return rich


def _tagged(result: EvaluationResult) -> list[Measurement]:
    return [replace(m, tags={**m.tags, "model": result.model}) for m in result.measurements]


def _of(measurement: Measurement, model: str) -> bool:
    """Whether it is of this model, or compares it."""
    return model in (measurement.tags.get("model"), measurement.tags.get("over"))
