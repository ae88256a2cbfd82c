"""What the constraint costs: constrained fine-tuning ÷ plain fine-tuning on the same tokens, by `Trainer` and by TRL.

    python benchmarks/overhead.py                    # 300 steps of the demo's recipe, three turns; goes on where it stopped
    python benchmarks/overhead.py --steps 75         # the demo itself
    python benchmarks/overhead.py --table docs/performance.md        # from the results file; runs nothing

Every run has a process of its own. The runs come in turn (A B C, C B A, …), and a ratio is taken within a turn. The rows with
a second device pin the trainer to one core and the worker that refreshes the guidance to another, and compare with plain
fine-tuning pinned to one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

BENCHMARK = "overhead"
HERE = Path(__file__).parent

Told = dict[str, Any]
Measure = Callable[[dict[str, Any]], Told]


@dataclass(frozen=True)
class Variant:
    """A way to train: its name, how `timed_run` does it, its settings, and which of the machine's cores it may use."""

    name: str
    how: str
    settings: tuple[str, ...] = ()
    cores: int = 0  # how many; 0 for all
    worker_cores: int = 0


PLAIN, TRL, CONSTRAINED = Variant("plain", "plain"), Variant("trl", "trl"), Variant("constrained", "constrained")
THREE = Variant("constrained, three iterations", "constrained", ("guidance.iterations=3",))
PLAIN_PINNED = Variant("plain, one core", "plain", cores=1)
PARALLEL = Variant(
    "constrained, parallel",
    "constrained",
    ("guidance.schedule=parallel", "guidance.worker_threads=1", "guidance.iterations=3"),
    1,
    worker_cores=1,
)
VARIANTS = (PLAIN, TRL, CONSTRAINED, THREE, PLAIN_PINNED, PARALLEL)
RATIOS = (
    ("constrained_over_plain_one_device", CONSTRAINED, PLAIN),
    ("three_iterations_over_plain_one_device", THREE, PLAIN),
    ("constrained_over_plain_second_device", PARALLEL, PLAIN_PINNED),
    ("constrained_over_trl_one_device", CONSTRAINED, TRL),
    ("trl_over_plain_one_device", TRL, PLAIN),
)


def main(arguments: Sequence[str] | None = None, measure: Measure | None = None) -> None:
    """Run what is not there yet, then write the results file; or put its table into a document."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    variants = [variant for variant in VARIANTS if not options.only or variant.name in options.only]
    if options.warmup:
        for variant in variants:
            _told(options, variant, "warm-up", options.warmup, measure or in_own_process)
    for turn in range(options.turns):
        for variant in variants if turn % 2 == 0 else variants[::-1]:
            told = _told(options, variant, str(turn), options.steps, measure or in_own_process)
            print(f"{variant.name}, turn {turn}: {told['seconds']:.1f} s", file=sys.stderr, flush=True)
    write_results(path, BENCHMARK, _kept(path, options.steps) + rows_of(options))
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, help="the demo's when left out")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as in `adhere train`")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of a run")
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind")
    parser.add_argument(
        "--warmup", type=int, default=3, help="steps of a run of each kind that is not counted; 0: none"
    )
    parser.add_argument("--only", nargs="+", default=[], choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where finished runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="a few steps: shows that it runs, no more")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.turns, options.warmup = 4, 1, 0
        options.settings = ["guidance.iterations=2", "guidance.samples=16", "nado_fit.epochs=1", *options.settings]
    return options


def _told(options: argparse.Namespace, variant: Variant, turn: str, steps: int, measure: Measure) -> Told:
    """The numbers of a run, from disk where it was run before."""
    result = _result(options, variant, turn, steps)
    if not result.exists():
        cores = sorted(os.sched_getaffinity(0))
        result.parent.mkdir(parents=True, exist_ok=True)
        job = {
            "how": variant.how,
            "recipe": None if options.recipe is None else str(options.recipe),
            "settings": [*options.settings, *variant.settings, f"training.max_steps={steps}", *_fewer(steps)],
            "cores": cores[: variant.cores],
            "worker_cores": cores[variant.cores : variant.cores + variant.worker_cores],
            "folder": str(options.work / "run"),
            "result": str(result),
        }
        told = measure(job)
        result.write_text(json.dumps(told, indent=1), encoding="utf-8")
    found: Told = json.loads(result.read_text(encoding="utf-8"))
    return found


def _finished(options: argparse.Namespace, variant: Variant) -> list[Told]:
    """The runs of a kind, turn by turn, up to the first that is not there."""
    results = (_result(options, variant, str(turn), options.steps) for turn in itertools.count())
    return [json.loads(result.read_text(encoding="utf-8")) for result in itertools.takewhile(Path.exists, results)]


def _fewer(steps: int) -> list[str]:
    """A run shorter than its iterations (the warm-up) has one of them."""
    return ["guidance.iterations=1"] if steps <= 3 else []


def _result(options: argparse.Namespace, variant: Variant, turn: str, steps: int) -> Path:
    name = variant.name.replace(", ", "-").replace(" ", "-")
    return Path(options.work) / f"{steps}-steps" / f"{name}.{turn}.json"


def in_own_process(job: dict[str, Any]) -> Told:
    """The numbers of a job that `timed_run` has done. Raises SystemExit when it failed."""
    file = Path(job["result"]).with_suffix(".job.json")
    file.write_text(json.dumps(job), encoding="utf-8")
    cores = len(job["cores"]) or len(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, str(HERE / "timed_run.py"), str(file)],
        env={**os.environ, "OMP_NUM_THREADS": str(cores), "MKL_NUM_THREADS": str(cores)},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job['how']} failed (status {done.returncode}); the same command goes on from here")
    told: Told = json.loads(Path(job["result"]).read_text(encoding="utf-8"))
    return told


def _kept(path: Path, steps: int) -> Rows:
    """Rows of runs of another length, which stay."""
    if not path.exists():
        return []
    return [row for row in read_results(path)["rows"] if row["steps"] != str(steps)]


def rows_of(options: argparse.Namespace) -> Rows:
    """Ratios within each turn, and the runs themselves: all that have finished with so many steps."""
    told = {variant: runs for variant in VARIANTS if (runs := _finished(options, variant))}
    seconds = {variant: [run["seconds"] for run in runs] for variant, runs in told.items()}
    tags = {"steps": str(options.steps)}
    rows = [
        ratio_row(name, seconds[one], seconds[other], **tags)
        for name, one, other in RATIOS
        if one in seconds and other in seconds
    ]
    for variant, runs in told.items():
        of = {**tags, "method": variant.name}
        rows.append(median_row("seconds", seconds[variant], "s", **of))
        rows.append(median_row("expected_seconds", [run["expected_seconds"] for run in runs], "s", **of))
        rows.append(median_row("peak_memory", [run["peak_gib"] for run in runs], "GiB", **of))
        rows.append(median_row("trained_tokens", [run["trained_tokens"] for run in runs], "", **of))
        for part in sorted({part for run in runs for part in run["parts"]}):
            each = [run["parts"].get(part, 0.0) for run in runs]
            rows.append(median_row("refresh_seconds", each, "s", part=part, **of))
    return rows


def table(told: dict[str, Any], path: Path) -> str:
    """The results: times of every kind, and the ratios."""
    written = [made_by(told, path)]
    for steps in sorted({row["steps"] for row in told["rows"]}, key=int, reverse=True):
        rows = [row for row in told["rows"] if row["steps"] == steps]
        of = {(row["name"], row.get("method")): row for row in rows}
        lines = [
            [
                method,
                *(shown(of.get((name, method)), form) for name, form in COLUMNS),
                next((shown(of.get((ratio, None)), "{:.3f}") for ratio, one, _ in RATIOS if one.name == method), "1"),
            ]
            for method in dict.fromkeys(row["method"] for row in rows if "method" in row)
        ]
        head = [f"{steps} steps", "seconds", "expected by `adhere check`, s", "peak memory, GiB", "÷ plain"]
        written.append(markdown_table(head, lines))
        parts = [[row["method"], row["part"], shown(row, "{:.1f}")] for row in rows if row["name"] == "refresh_seconds"]
        if parts:
            written.append(markdown_table([f"all refreshes of {steps} steps", "part", "seconds"], parts))
    return "\n\n".join(written) + "\n"


COLUMNS = (("seconds", "{:.0f}"), ("expected_seconds", "{:.0f}"), ("peak_memory", "{:.2f}"))


if __name__ == "__main__":
    main()
