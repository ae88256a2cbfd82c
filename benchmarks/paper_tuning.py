"""What the methods of the paper's table were tuned by: each with several settings, on rows that no table reports on.

    python benchmarks/paper_tuning.py --data DATA                     # all cells; finished ones are not run again
    python benchmarks/paper_tuning.py --data DATA --methods dpo       # those of one method
    python benchmarks/paper_tuning.py --table docs/results.md         # from the results files; runs nothing

A cell is a cell of the table (`paper_table.py`) with another setting, one seed and no suites. It learns three quarters of the
rows that the table's methods learn, and is measured on the others. The setting that the table has is marked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paper_table
from paper_corpus import write_corpora
from result_files import RESULTS, Rows, markdown_table, put_between, read_results, results_path, write_results

if TYPE_CHECKING:
    from adhere.recipe.cells import Cell

BENCHMARK = "paper_tuning"
COLUMNS = (
    ("violation_rate", "violations", "{:.1%}"),
    ("judge_violation_rate", "second judge", "{:.1%}"),
    ("clean_perplexity", "clean perplexity", "{:.1f}"),
    ("corpus_perplexity", "corpus perplexity", "{:.0f}"),
    ("mean_length", "words an output", "{:.1f}"),
    ("distinct_2", "distinct-2", "{:.3f}"),
)


@dataclass(frozen=True)
class Choice:
    """What is tuned of a method: how it is called, the setting that it is, and the values tried."""

    method: str
    title: str
    setting: str
    values: tuple[float, ...]
    others: tuple[str, ...] = ()


REINFORCEMENT = ("learning rate", "baselines.reinforcement.learning_rate", (3e-5, 1e-4, 3e-4))
CHOICES = (
    Choice("rloo", *REINFORCEMENT),
    Choice("grpo", *REINFORCEMENT),
    Choice("dpo", "learning rate", "baselines.preference.learning_rate", (1e-5, 3e-5, 1e-4)),
    Choice("constrained", "weight", "constraints.0.weight", (1.0, 2.0, 4.0)),
    Choice("constrained-adaptive", "target", "constraints.0.target", (0.93, 0.95, 0.97)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet, then write the results file; or put its table into a document."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, "tuning", table(read_results(path), path))
        return
    if options.data is None:
        raise SystemExit("--data FOLDER: the table's corpus is made from its wikitext*.jsonl and wiki_toxicity*")
    options.work.mkdir(parents=True, exist_ok=True)
    write_corpora(options.data, options.work, tuning=True)
    chosen = [choice for choice in CHOICES if not options.methods or choice.method in options.methods]
    for cell in (each for choice in chosen for each in cells_of(choice, options.work)):
        _run(cell, options.work)
    rows = [row for choice in CHOICES for cell in cells_of(choice, options.work) for row in _rows(cell, options.work)]
    write_results(path, BENCHMARK, rows)
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the files that the table's corpus is made from")
    parser.add_argument("--methods", nargs="+", choices=[choice.method for choice in CHOICES])
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    return parser.parse_args(arguments)


def cells_of(choice: Choice, work: Path) -> list[Cell]:
    """A cell for every value tried."""
    from adhere.recipe.cells import Cell

    (method,) = (method for method in paper_table.METHODS if method.name == choice.method)
    options = paper_table.cell_options(work)
    cells = []
    for value in choice.values:
        tried = paper_table.Method(method.name, (*method.settings, f"{choice.setting}={value!r}"))
        cell = paper_table.make_cell(options, "main", tried, seed=0)
        shipped = paper_table.make_cell(options, "main", method, seed=0).digest == cell.digest
        tags = {"method": method.name, "setting": f"{choice.title} {value:g}", "seed": "0", "in_table": str(shipped)}
        cells.append(Cell(f"{method.name}-{choice.title}-{value:g}", cell.recipe, tags))
    return cells


def _run(cell: Cell, work: Path) -> None:
    from adhere.cli.progress import Lines
    from adhere.recipe.cells import run_cell

    told = run_cell(cell, work, progress=Lines(sys.stderr))
    shown = {row["name"]: round(row["value"], 4) for row in told["rows"] if row["name"] in dict(_titles())}
    print(f"{cell.name}: {shown}", file=sys.stderr, flush=True)


def _rows(cell: Cell, work: Path) -> Rows:
    from adhere.recipe.cells import finished_cell

    found = finished_cell(cell, work)
    return [] if found is None else [{**row, **cell.tags} for row in found["rows"] if row["name"] in dict(_titles())]


def _titles() -> list[tuple[str, str]]:
    return [(name, title) for name, title, _ in COLUMNS]


def table(told: dict[str, Any], path: Path) -> str:
    """A line for every setting tried."""
    lines = []
    for method, setting in dict.fromkeys((row["method"], row["setting"]) for row in told["rows"]):
        mine = {row["name"]: row for row in told["rows"] if (row["method"], row["setting"]) == (method, setting)}
        mark = " (the table's)" if next(iter(mine.values()))["in_table"] == "True" else ""
        values = (form.format(mine[name]["value"]) if name in mine else "–" for name, _, form in COLUMNS)
        lines.append([method, setting + mark, *values])
    places = ", ".join(dict.fromkeys(row["machine"] for row in told["rows"]))
    made = f"Seed 0; made on {places}, {told['date'][:10]}; the numbers, with their intervals, are in `{path}`."
    return f"{made}\n\n{markdown_table(['method', 'setting', *(title for _, title in _titles())], lines)}\n"


if __name__ == "__main__":
    main()
