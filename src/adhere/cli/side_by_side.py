"""A comparison on the terminal: one row a model, its measures, and below them how it stands to the reference."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from adhere.cli.screen import say, visible
from adhere.evaluation.side_by_side import Comparison
from adhere.recipe.sweep import Sweep, sweep_measurements
from adhere.report.comparison import told
from adhere.report.contrast_tables import difference_table, ratio_table
from adhere.report.model_table import models_table
from adhere.report.sweep import mean_over_seeds
from adhere.report.tables import MAIN, Cell, Table, model_label

SHOWN = MAIN[:4]
"""Measures that fit a terminal; the page has all of them."""


def show_comparison(comparison: Comparison) -> None:
    """Print the models, their contrasts, the result in sentences, and what was not the same."""
    reference = comparison.reference
    titled = [
        (
            "Outputs on held-out prompts, with 95 % intervals",
            models_table(comparison.measurements, comparison.models, SHOWN),
        ),
        (f"Against {model_label(reference)}", difference_table(comparison.contrasts, reference, SHOWN)),
        (f"Times {model_label(reference)}", ratio_table(comparison.contrasts, reference, SHOWN)),
    ]
    say("", *(drawn(title, table) for title, table in titled if table is not None))
    say(*(Text(visible(sentence)) for sentence in told(comparison)))
    if comparison.remarks:
        say("", "Not on equal terms:", *(Text(visible(f"- {remark}.")) for remark in comparison.remarks))


def show_sweep(sweep: Sweep) -> None:
    """Print the points of a sweep, each the mean of its seeds."""
    means = mean_over_seeds(sweep_measurements(sweep))
    table = models_table(means, list(dict.fromkeys(m.tags["model"] for m in means)), SHOWN)
    if table is not None:
        say("", drawn(f"Over {sweep.key}, {len(sweep.seeds)} seed{'s' if len(sweep.seeds) > 1 else ''}", table))


def drawn(title: str, table: Table) -> RichTable:
    """A table of models, one a row, intervals below the numbers."""
    rich = RichTable(title=Text(visible(title)), title_justify="left", box=SIMPLE_HEAD, show_lines=True, padding=(0, 1))
    rich.add_column("", overflow="fold")
    for column in table.columns:
        rich.add_column(Text(visible(column.label)), justify="right", overflow="fold")
    for row in table.rows:
        rich.add_row(Text(visible(row.label)), *map(_numbers, row.cells))
    return rich


def _numbers(cell: Cell) -> Text:
    # A line of its own for each of interval and p; without spaces, so that no interval is broken.
    below = cell.interval.replace("; ", "\n").replace(" to ", "…").replace(" ", "\N{NO-BREAK SPACE}")
    return Text.assemble(cell.text, ("\n" + below if below else "", "dim"))
