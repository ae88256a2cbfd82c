"""What suites measured, as tables on the terminal: one row a measure, one column a model."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from adhere.cli.screen import say, visible
from adhere.report.run_files import read_run
from adhere.report.suites import SuiteTable, suite_tables


def show_suites(folder: Path, only: tuple[str, ...] = ()) -> None:
    """Print the suites that a run folder holds; nothing where there are none.

    Args:
        folder: the run.
        only: names of suites; all without it.
    """
    run = read_run(folder)
    for shown in suite_tables(run.suites, run.suite_notes):
        if not only or shown.suite in only:
            say("", drawn(shown))
            say(*(f"note: {note}" for note in shown.notes))
            if shown.by_group is not None:
                say(f"By group, {len(shown.by_group.rows)} more rows: in the report")


def drawn(shown: SuiteTable) -> RichTable:
    """The table for a terminal; intervals beside the numbers."""
    rich = RichTable(
        title=f"Suite {shown.suite}, with 95 % intervals", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1)
    )
    rich.add_column("", overflow="fold")
    for column in shown.table.columns:
        rich.add_column(Text(visible(column.label)), justify="right", overflow="fold")
    for row in shown.table.rows:
        cells = [Text.assemble(cell.text, (f" {cell.interval}" if cell.interval else "", "dim")) for cell in row.cells]
        rich.add_row(Text(visible(row.label)), *cells)
    return rich
