"""Which gain and lag bring an adaptive λ to its target, in simulated runs: seconds, and no model.

    python benchmarks/multiplier.py
    python benchmarks/multiplier.py --table docs/adaptive.md      # from the results file; runs nothing

A simulated policy goes to where the last λ pulls it, log-odds of satisfaction on a line in log((c + λ) / (1 − c)) with
c = 0.3, after a delay, with a lag, and the slower the lower the learning rate is (which rises for a tenth of the run and
then falls to zero). It is measured some fifteen times by 256 outputs. The worlds differ in steps, lag, delay, slope and where
the policy starts; every world is run with several seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_files import RESULTS, Rows, made_by, markdown_table, put_between, read_results, results_path, write_results

from adhere.guidance.constraint import DualConfig
from adhere.training.multiplier import MultiplierState, updated
from adhere.training.satisfaction import Satisfaction

BENCHMARK = "multiplier"
TARGETS = (0.95, 0.99)
CORPUS, OUTPUTS, WEIGHT, SETTLED = 0.3, 256, 2.0, 0.92  # where λ starts, and the satisfaction that it settles at
AT_ONCE = 0.001
"""A lag, in steps, of a policy that has followed λ by the next measurement: nothing is ever on its way."""
NEAR = 0.01


@dataclass(frozen=True)
class World:
    """A policy: optimiser steps of its run, how it follows λ (steps), and the satisfaction that it starts from."""

    steps: int
    lag: float
    delay: int
    slope: float
    start: float

    def settled(self, log_multiplier: float) -> float:
        """Log-odds of satisfaction that a λ leads to."""
        return log_odds(SETTLED) + self.slope * (_reach(log_multiplier) - _reach(math.log(WEIGHT)))

    def needed(self, target: float) -> float:
        """log λ that leads to a target."""
        reach = _reach(math.log(WEIGHT)) + (log_odds(target) - log_odds(SETTLED)) / self.slope
        return math.log(math.exp(reach) * (1 - CORPUS) - CORPUS)


def worlds() -> Iterator[World]:
    """Those that are simulated."""
    for steps, lag, delay, slope, start in itertools.product((75, 300), (4, 8, 16), (0, 8), (0.8, 1.2), (0.75, 0.914)):
        yield World(steps, lag, delay, slope, start)


def log_odds(share: float) -> float:
    """ln(p / (1 − p))."""
    return math.log(share / (1 - share))


def _reach(log_multiplier: float) -> float:
    return math.log((CORPUS + math.exp(log_multiplier)) / (1 - CORPUS))


def simulated(world: World, target: float, dual: DualConfig, seed: int) -> tuple[float, float]:
    """Satisfaction at the end of a run, and the highest log λ on the way."""
    drawn, state, odds = random.Random(seed), MultiplierState.start(WEIGHT), log_odds(world.start)
    path, every = [state.log_multiplier] * (world.delay + 1), world.steps // 15
    warm = 0.1 * world.steps
    for step in range(world.steps):
        if step and step % every == 0:
            share = sum(drawn.random() < 1 / (1 + math.exp(-odds)) for _ in range(OUTPUTS)) / OUTPUTS
            state = updated(state, Satisfaction(share, OUTPUTS), target, dual, every)
        path.append(state.log_multiplier)
        rate = min((step + 1) / warm, (world.steps - step) / (world.steps - warm), 1.0)
        odds += rate * (world.settled(path[-1 - world.delay]) - odds) / world.lag
    return 1 / (1 + math.exp(-odds)), max(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate every setting and write the results file; or put its table into a document."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    rows: Rows = []
    for gain, lag, target in itertools.product(options.gains, options.lags, TARGETS):
        rows += rows_of(gain, lag, target, options.seeds)
    write_results(path, BENCHMARK, rows, range(options.seeds))
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gains", type=float, nargs="+", default=[0.2, 0.3, 0.4, 0.6])
    parser.add_argument("--lags", type=float, nargs="+", default=[AT_ONCE, 6.0, 12.0, 24.0], help="steps")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each world")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    return parser.parse_args(arguments)


def rows_of(gain: float, lag: float, target: float, seeds: int) -> Rows:
    """How near a setting comes to a target, over all worlds and seeds, and how far λ overshoots."""
    dual, missed, above = DualConfig(gain=gain, lag=lag), [], []
    for world, seed in itertools.product(worlds(), range(seeds)):
        share, highest = simulated(world, target, dual, seed)
        missed.append(abs(share - target))
        above.append(math.exp(highest - world.needed(target)))
    tags = {"gain": gain, "lag": lag, "target": target, "n": len(missed)}
    return [
        {"name": "distance", "value": statistics.mean(missed), "unit": "share", **tags},
        {"name": "within_one_point", "value": sum(m <= NEAR for m in missed) / len(missed), "unit": "share", **tags},
        {"name": "highest_over_needed", "value": statistics.median(above), "unit": "×", **tags},
        {"name": "highest_over_needed_p90", "value": statistics.quantiles(above, n=10)[-1], "unit": "×", **tags},
    ]


def table(told: dict[str, Any], path: Path) -> str:
    """The results as Markdown: a line a setting, the shipped one in bold."""
    head = ["gain, lag"]
    for target in TARGETS:
        head += [f"{target:g}: distance, points", "within one", "highest λ ÷ needed (9 of 10)"]
    found = {(row["name"], row["gain"], row["lag"], row["target"]): row["value"] for row in told["rows"]}
    shipped, lines = DualConfig(), []
    for gain, lag in dict.fromkeys((row["gain"], row["lag"]) for row in told["rows"]):
        name = f"{gain:g}, {'none' if lag == AT_ONCE else f'{lag:g}'}"
        cells = [f"**{name}**" if (gain, lag) == (shipped.gain, shipped.lag) else name]
        for target in TARGETS:
            distance, within, highest, most = (
                found[name, gain, lag, target]
                for name in ("distance", "within_one_point", "highest_over_needed", "highest_over_needed_p90")
            )
            cells += [f"{100 * distance:.2f}", f"{within:.0%}", f"{highest:.1f} ({most:.1f})"]
        lines.append(cells)
    return f"{made_by(told, path)}\n\n{markdown_table(head, lines)}\n"


if __name__ == "__main__":
    main()
