"""Whether the parallel schedule trains as good a model as the sequential one: the demo's recipe by both, seed by seed.

    python benchmarks/schedules.py --seeds 0 1 2        # a finished cell is not run again

The cells are made and kept as those of `defaults.py`: trained, measured, one JSON file each under `--work`. The rows that the
demo reports on take no part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import defaults
from result_files import RESULTS, Rows, results_path, write_results

BENCHMARK = "schedules"
SCHEDULES = ("sequential", "parallel")
VARIANTS = tuple(defaults.Variant("schedule", name, (f"guidance.schedule={name}",)) for name in SCHEDULES)
COMPARED = ("violation_rate", "judge_violation_rate", "clean_perplexity", "corpus_perplexity")

Cell = Callable[[Path, defaults.Variant, int], None]


def main(arguments: Sequence[str] | None = None, cell: Cell = defaults._cell) -> None:
    """Run the cells that are not there yet, then write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where runs and cells are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    options = parser.parse_args(arguments)
    rows: Rows = []
    for seed in options.seeds:
        for variant in VARIANTS:
            cell(options.work, variant, seed)
            kept = defaults._cell_path(options.work, variant, seed)
            told = json.loads(kept.read_text(encoding="utf-8"))["rows"]
            rows += [{**row, "schedule": row["setting"]} for row in told]
    rows += differences(rows)
    path = results_path(options.results, BENCHMARK)
    write_results(path, BENCHMARK, rows, options.seeds)
    for row in rows:
        if row["name"].endswith("_difference"):
            ends = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
            print(f"{row['name']}: {row['value']:+.4f}{ends} over {row['n']} seeds")
    print(path)


def differences(rows: Sequence[dict[str, Any]]) -> Rows:
    """Parallel minus sequential: the mean over the seeds, with the 95 % interval of a paired t-test."""
    from scipy.stats import t

    found = []
    for name in COMPARED:
        of = {(row["schedule"], row["seed"]): row["value"] for row in rows if row["name"] == name}
        seeds = sorted({seed for _, seed in of})
        each = [of["parallel", seed] - of["sequential", seed] for seed in seeds if ("sequential", seed) in of]
        if not each:
            continue
        mean, n = sum(each) / len(each), len(each)
        error = (sum((d - mean) ** 2 for d in each) / (n - 1) / n) ** 0.5 if n > 1 else float("nan")
        reach = float(t.ppf(0.975, n - 1)) * error if n > 1 else None
        ends = {"low": None, "high": None} if reach is None else {"low": mean - reach, "high": mean + reach}
        found.append({"name": f"{name}_difference", "value": mean, **ends, "n": n, "unit": "", "interval": "paired t"})
    return found


if __name__ == "__main__":
    main()
