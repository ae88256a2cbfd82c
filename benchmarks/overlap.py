"""What training while guidance is made is worth: the parallel schedule ÷ the sequential one, and how long the trainer waits.

    python benchmarks/overlap.py                  # the demo's recipe with an oracle of 20 ms a call, 8 at a time; three turns
    python benchmarks/overlap.py --quick --recipe some.yaml     # a few steps: shows that it runs, no more
    python benchmarks/overlap.py --table docs/parallel.md       # from the results file; runs nothing

Every run has a process of its own. The runs come in turn (A B C, C B A, …), and a ratio is taken within a turn. On a CPU the
trainer is pinned to one core and the worker to another, in both schedules; with `shared core` both to the same one, where
nothing but the oracle's latency can be hidden. On a GPU (`--device cuda`) trainer and worker share it and nothing is pinned.

The parallel schedule makes one guidance less (none during the last iteration). `same refreshes` compares it with itself in one
process, where training waits for every guidance: the same work to the bit, without overlapping.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overhead import in_own_process
from result_files import (
    RESULTS,
    Rows,
    made_by,
    markdown_table,
    median_row,
    put_between,
    ratio_row,
    read_results,
    results_path,
    shown,
    write_results,
)  # fmt: skip

BENCHMARK = "overlap"

Told = dict[str, Any]
Measure = Callable[[dict[str, Any]], Told]


@dataclass(frozen=True)
class Variant:
    """A way to run: its name, its settings, and the cores of trainer and worker as places in the list of those there are."""

    name: str
    settings: tuple[str, ...]
    core: int | None = 0
    worker_core: int | None = 1


SEQUENTIAL = Variant("sequential", ("guidance.schedule=sequential", "guidance.executor=worker"))
PARALLEL = Variant("parallel", ("guidance.schedule=parallel", "guidance.executor=worker"))
NOT_OVERLAPPED = Variant("parallel, not overlapped", ("guidance.schedule=parallel", "guidance.executor=in-process"))
SEQUENTIAL_SHARED = Variant("sequential, shared core", SEQUENTIAL.settings, worker_core=0)
PARALLEL_SHARED = Variant("parallel, shared core", PARALLEL.settings, worker_core=0)
VARIANTS = (SEQUENTIAL, PARALLEL, NOT_OVERLAPPED, SEQUENTIAL_SHARED, PARALLEL_SHARED)
RATIOS = (
    ("parallel_over_sequential", PARALLEL, SEQUENTIAL, "own core"),
    ("parallel_over_sequential", PARALLEL, NOT_OVERLAPPED, "own core, same refreshes"),
    ("parallel_over_sequential", PARALLEL_SHARED, SEQUENTIAL_SHARED, "shared core"),
)
ORACLE = "constraints.0.oracle={kind: callable, function: 'slow_oracle:score', prefix_closed: true, name: slow, version: '1'}"
ORACLE_TOLD = "20 ms a call, 8 at a time"


def main(arguments: Sequence[str] | None = None, measure: Measure = in_own_process) -> None:
    """Run what is not there yet, then write the results file; or put its table into a document."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    variants = [v for v in VARIANTS[: 3 if options.device else None] if not options.only or v.name in options.only]
    for turn in range(options.turns):
        for variant in variants if turn % 2 == 0 else variants[::-1]:
            told = _told(options, variant, turn, measure)
            print(f"{variant.name}, turn {turn}: {told['seconds']:.1f} s", file=sys.stderr, flush=True)
    write_results(path, BENCHMARK, rows_of(options, variants, measure))
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, help="the demo's when left out")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as in `adhere train`")
    parser.add_argument("--steps", type=int, default=90, help="optimiser steps of a run")
    parser.add_argument("--iterations", type=int, default=6, help="iterations of a run")
    parser.add_argument("--samples", type=int, default=96, help="outputs for each guidance")
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind")
    parser.add_argument("--only", nargs="+", default=[], choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--device", default="", help="cuda: trainer and worker on one GPU, without pinning")
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where finished runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="a few steps: shows that it runs, no more")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.iterations, options.samples, options.turns = 6, 3, 16, 1
    return options


def _told(options: argparse.Namespace, variant: Variant, turn: int, measure: Measure) -> Told:
    """The numbers of a run, from disk where it was run before."""
    name = variant.name.replace(", ", "-").replace(" ", "-")
    shape = f"{options.steps}-{options.iterations}-{options.samples}{'-' if options.device else ''}{options.device}"
    result = Path(options.work) / shape / f"{name}.{turn}.json"
    if not result.exists():
        result.parent.mkdir(parents=True, exist_ok=True)
        own = (
            f"training.max_steps={options.steps}",
            f"guidance.iterations={options.iterations}",
            f"guidance.samples={options.samples}",
        )
        job = {
            "how": "constrained",
            "recipe": None if options.recipe is None else str(options.recipe),
            "settings": [*own, ORACLE, *options.settings, *variant.settings],
            "cores": _core(options, variant.core),
            "worker_cores": _core(options, variant.worker_core),
            "folder": str(options.work / "run"),
            "result": str(result),
        }
        told = measure(job)
        result.write_text(json.dumps(told, indent=1), encoding="utf-8")
    found: Told = json.loads(result.read_text(encoding="utf-8"))
    return found


def _core(options: argparse.Namespace, place: int | None) -> list[int]:
    cores = sorted(os.sched_getaffinity(0))
    return [] if options.device or place is None else [cores[place % len(cores)]]


def rows_of(options: argparse.Namespace, variants: Sequence[Variant], measure: Measure) -> Rows:
    """Ratios within each turn, the share of its time that the trainer waited, and the runs themselves."""
    runs = {v: [_told(options, v, turn, measure) for turn in range(options.turns)] for v in variants}
    seconds = {variant: [run["seconds"] for run in told] for variant, told in runs.items()}
    tags = {"oracle": ORACLE_TOLD, "steps": str(options.steps), "iterations": str(options.iterations)}
    tags |= {"samples": str(options.samples)}
    rows = []
    for name, one, other, setting in RATIOS:
        if one in runs and other in runs:
            where = setting.replace("own core", "one GPU") if options.device else setting
            rows.append(ratio_row(name, seconds[one], seconds[other], setting=where, **tags))
    for variant, told in runs.items():
        of = {"setting": variant.name, **tags}
        spent = [run["spent"] for run in told]
        idle = [each.get("waiting", 0.0) / (each.get("waiting", 0.0) + each["training"]) for each in spent]
        rows.append(median_row("trainer_idle_fraction", idle, "", **of))
        rows.append(median_row("seconds", seconds[variant], "s", **of))
        for part in ("training", "waiting", "sampling", "labelling", "fitting"):
            rows.append(median_row(f"{part}_seconds", [each.get(part, 0.0) for each in spent], "s", **of))
    return rows


PARTS = ("seconds", "training_seconds", "waiting_seconds", "sampling_seconds", "labelling_seconds", "fitting_seconds")


def table(told: dict[str, Any], path: Path) -> str:
    """How long every kind of run took and waited, and the ratios."""
    rows = told["rows"]
    of = {(row["name"], row["setting"]): row for row in rows}
    about = f"{rows[0]['steps']} steps, {rows[0]['iterations']} iterations of {rows[0]['samples']} outputs, {rows[0]['oracle']}"
    lines = [
        [row["setting"], shown(row, "{:.0%}"), *(shown(of.get((part, row["setting"])), "{:.0f}") for part in PARTS)]
        for row in rows
        if row["name"] == "trainer_idle_fraction"
    ]
    head = [about, "trainer waits", "seconds", *(part.removesuffix("_seconds") for part in PARTS[1:])]
    ratios = [[row["setting"], shown(row)] for row in rows if row["name"] == "parallel_over_sequential"]
    return "\n\n".join([made_by(told, path), markdown_table(head, lines), markdown_table(RATIO_HEAD, ratios)]) + "\n"


RATIO_HEAD = ("parallel ÷ sequential", "wall time")


if __name__ == "__main__":
    main()
