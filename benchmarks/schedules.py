"""Whether the parallel schedule trains as good a model as the sequential one: the demo's recipe by both, seed by seed.

    python benchmarks/schedules.py --seeds 0 1 2        # a finished cell is not run again
    python benchmarks/schedules.py --kill               # besides: parallel, with the worker killed in its second refresh
    python benchmarks/schedules.py --table docs/parallel.md     # from the results file; runs nothing

The cells are made and kept as those of `defaults.py`: trained, measured, one JSON file each under `--work`. The rows that the
demo reports on take no part.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import defaults
from result_files import (
    RESULTS,
    Rows,
    made_by,
    markdown_table,
    put_between,
    read_results,
    results_path,
    shown,
    write_results,
)  # fmt: skip

BENCHMARK = "schedules"
SCHEDULES = ("sequential", "parallel")
VARIANTS = tuple(
    defaults.Variant("schedule", name, (*defaults.THREE, f"guidance.schedule={name}")) for name in SCHEDULES
)
KILLED = defaults.Variant("schedule", "parallel, worker killed", VARIANTS[1].settings)
COMPARED = ("violation_rate", "judge_violation_rate", "clean_perplexity", "corpus_perplexity")

Cell = Callable[[Path, defaults.Variant, int], None]


def main(arguments: Sequence[str] | None = None, cell: Cell = defaults._cell) -> None:
    """Run the cells that are not there yet, then write the results file; or put its table into a document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where runs and cells are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--kill", action="store_true", help="a parallel run whose worker is killed, besides")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    options = parser.parse_args(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    rows: Rows = []
    for seed in options.seeds:
        for variant in (*VARIANTS, KILLED) if options.kill else VARIANTS:
            events = defaults._recipe(options.work, variant, seed).output_dir / "events.jsonl"
            with worker_killed(events, enabled=variant == KILLED):
                cell(options.work, variant, seed)
            kept = defaults._cell_path(options.work, variant, seed)
            told = json.loads(kept.read_text(encoding="utf-8"))["rows"]
            rows += [{**row, "schedule": row["setting"]} for row in told]
    rows += differences(rows, "sequential", "parallel") + differences(rows, "parallel", KILLED.value)
    write_results(path, BENCHMARK, rows, options.seeds)
    for row in rows:
        if row["name"].endswith("_difference"):
            ends = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
            print(f"{row['of']}: {row['name']} {row['value']:+.4f}{ends} over {row['n']} seeds")
    print(path)


def differences(rows: Sequence[dict[str, Any]], before: str, after: str) -> Rows:
    """`after` minus `before`: the mean over the seeds, with the 95 % interval of a paired t-test."""
    from scipy.stats import t

    found = []
    for name in COMPARED:
        of = {(row["schedule"], row["seed"]): row["value"] for row in rows if row["name"] == name}
        seeds = sorted(seed for schedule, seed in of if schedule == after and (before, seed) in of)
        each = [of[after, seed] - of[before, seed] for seed in seeds]
        if not each:
            continue
        mean, n = sum(each) / len(each), len(each)
        error = (sum((d - mean) ** 2 for d in each) / (n - 1) / n) ** 0.5 if n > 1 else float("nan")
        reach = float(t.ppf(0.975, n - 1)) * error if n > 1 else None
        ends = {"low": None, "high": None} if reach is None else {"low": mean - reach, "high": mean + reach}
        found.append({"name": f"{name}_difference", "value": mean, **ends, "n": n, "unit": "", "interval": "paired t"})
        found[-1]["of"] = f"{after} minus {before}"
    return found


def table(told: dict[str, Any], path: Path) -> str:
    """Every run, and the differences between the schedules over the seeds."""
    rows = [row for row in told["rows"] if "schedule" in row]
    of = {(row["schedule"], row["seed"], row["name"]): row for row in rows}
    lines = [
        [schedule, seed, *(shown(of.get((schedule, seed, name)), form) for name, _, form in defaults.COLUMNS)]
        for schedule, seed in dict.fromkeys((row["schedule"], row["seed"]) for row in rows)
    ]
    lines.sort(key=lambda line: [*SCHEDULES, KILLED.value].index(line[0]))
    apart: dict[str, list[str]] = {}
    for row in told["rows"]:
        if "of" in row:
            ends = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
            apart.setdefault(row["of"], []).append(f"{row['value']:+.3f}{ends}")
    titles = {name: title for name, title, _ in defaults.COLUMNS}
    compared = [titles[name] for name in COMPARED]
    return "\n\n".join([
        made_by(told, path),
        markdown_table(["schedule", "seed", *titles.values()], lines),
        markdown_table(["mean over the seeds", *compared], [[of_, *each] for of_, each in apart.items()]),
    ]) + "\n"  # fmt: skip


@contextmanager
def worker_killed(events: Path, *, enabled: bool) -> Iterator[None]:
    """Kill the worker of the run in this process, once, as soon as something is drawn for the second guidance."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            told = events.read_text(encoding="utf-8") if events.exists() else ""
            if '"sampled"' in told.partition('"fitted"')[2]:
                for worker in _workers():
                    os.kill(worker, signal.SIGKILL)
                return

    if enabled:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _workers() -> list[int]:
    """Worker processes that this process has started."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        for child in map(int, path.read_text(encoding="utf-8").split()):
            with suppress(OSError):
                if b"adhere.guidance.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


if __name__ == "__main__":
    main()
