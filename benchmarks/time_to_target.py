"""How long until a model has learned the corpus and violates rarely: ours against TRL's RLOO and GRPO.

    python benchmarks/time_to_target.py                       # the demo's recipe; goes on where it stopped
    python benchmarks/time_to_target.py --seeds 0 1 --learning-rates 1e-5 3e-5 1e-4
    python benchmarks/time_to_target.py --table docs/performance.md --figure runs/time_to_target.html     # runs nothing

Every method takes `--corpus-steps` steps on the corpus. The constrained method is held to the rule meanwhile; reinforcement
learning begins after them, held near the fine-tuned model, and goes on until its outputs violate rarely enough, or for
`--limit` steps. Every few steps outputs on held-out prompts are judged by the oracle, and the held-out rows of the corpus
that do not violate are read; measuring counts nowhere. The target is reached at the first of two such measurements in a row
with at most `--target` violations and a corpus perplexity of at most `--forgotten` times that of plain fine-tuning, which is
what RLOO and GRPO begin from. What reaching the violations alone takes is told as well: a model that has forgotten the corpus
violates rarely, too. RLOO and GRPO are run with every learning rate, and the one that gets there first is what ours is
compared with.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_recipe import base_recipe
from result_files import (
    RESULTS,
    Rows,
    made_by,
    markdown_table,
    median_row,
    put_between,
    read_results,
    results_path,
    shown,
    write_results,
)
from violation_curve import Curve, curve_figure, reached, split

if TYPE_CHECKING:
    from adhere.recipe.schema import Recipe

BENCHMARK = "time_to_target"
OURS, RIVALS = "constrained", ("rloo", "grpo")
_KINDS = {
    "with the corpus": "at most {target:.0%} violations and the corpus not forgotten (`--forgotten`)",
    "violations alone": "at most {target:.0%} violations, whatever has become of the corpus",
}
SPENT = (("minutes", "min"), ("tokens", ""), ("oracle_calls", ""))


@dataclass(frozen=True)
class Cell:
    """A method with its learning rate (none where the recipe's stays) and a seed."""

    method: str
    learning_rate: float | None
    seed: int

    @property
    def name(self) -> str:
        return f"{self.way}-{self.seed}".replace(", ", "-")

    @property
    def way(self) -> str:
        return self.method if self.learning_rate is None else f"{self.method}, {self.learning_rate:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are not there yet and write the results file; or a table and a figure of it."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None or options.figure is not None:
        told = read_results(path)
        if options.table is not None:
            put_between(options.table, BENCHMARK, table(told, path))
        if options.figure is not None:
            curve_figure(options.figure, told["rows"])
        return
    cells = [Cell(OURS, None, seed) for seed in options.seeds]
    cells += [Cell(m, rate, seed) for seed in options.seeds for m in options.methods for rate in options.learning_rates]
    found = {cell: _told(options, cell) for cell in cells}
    write_results(
        path, BENCHMARK, rows_of(found, options.target, options.forgotten, options.corpus_steps), options.seeds
    )
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, help="the demo's when left out")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as in `adhere train`")
    parser.add_argument("--target", type=float, default=0.1, help="share of outputs that may violate")
    parser.add_argument(
        "--forgotten", type=float, default=1.1, help="corpus perplexity allowed, in plain fine-tuning's"
    )
    parser.add_argument("--corpus-steps", type=int, default=75, help="steps on the corpus, of every method")
    parser.add_argument("--limit", type=int, default=150, help="steps of reinforcement learning at most")
    parser.add_argument("--every", type=int, default=5, help="steps between two measurements")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts of a measurement")
    parser.add_argument("--methods", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-5, 3e-5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where finished cells are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="a few steps: shows that it runs, no more")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    parser.add_argument("--figure", type=Path, help="draw the curves into this .html file; runs nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.corpus_steps, options.limit, options.every, options.prompts = 2, 2, 1, 4
        options.learning_rates = options.learning_rates[:1]
        own = ["guidance.iterations=1", "guidance.samples=16", "nado_fit.epochs=1"]
        options.settings = [*own, "baselines.reinforcement.prompts_per_step=2", *options.settings]
    return options


def _told(options: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    """The curve of a cell, from disk where it was run before."""
    recipe = _recipe(options, cell)
    asked = (options.corpus_steps, options.limit, options.every, options.prompts, options.target, options.forgotten)
    path: Path = options.work / "cells" / f"{cell.name}.{'-'.join(f'{each:g}' for each in asked)}.json"
    if not path.exists():
        from adhere.files import write_json_atomic

        print(f"{cell.name} ...", file=sys.stderr, flush=True)
        shutil.rmtree(recipe.output_dir, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        points = run(recipe, options)
        write_json_atomic(path, {"points": points})
        shutil.rmtree(recipe.output_dir)
        print(f"{cell.name}: {points[-1]}", file=sys.stderr, flush=True)
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told


def _recipe(options: argparse.Namespace, cell: Cell) -> Recipe:
    steps, limit = options.corpus_steps, options.limit
    own = [f"method={cell.method}", f"seed={cell.seed}"]
    if cell.method == OURS:
        own += [f"training.max_steps={steps}"]
    else:
        own += [f"training.max_steps={steps + limit}", f"baselines.corpus_share={steps / (steps + limit)!r}"]
        own += [f"baselines.reinforcement.learning_rate={cell.learning_rate!r}"]
    return base_recipe(options.recipe, options.work / cell.name, [*options.settings, *own])


def run(recipe: Recipe, options: argparse.Namespace) -> list[dict[str, float]]:
    """Train by the recipe's method; what was measured on the way, and what had been spent by then."""
    from adhere.cli.quiet import quiet_libraries
    from adhere.models.policy import load_policy
    from adhere.recipe.check import prepare
    from adhere.recipe.folder import MODEL
    from adhere.recipe.progress import silent
    from adhere.recipe.stage_trainers import stage_trainer
    from adhere.recipe.stages import load_stage, stages_of

    quiet_libraries()
    policy = load_policy(recipe.model, recipe.seed)
    prepared = prepare(recipe, lambda: policy)
    stages, done = stages_of(recipe, len(prepared.inputs.rows)), 0
    curve = Curve(recipe, prepared, policy.tokenizer, options.prompts, options.every, options.target, options.forgotten)
    for number, stage in enumerate(stages):
        trainer = stage_trainer(recipe, prepared, policy, stage, done, silent)
        trainer.args.save_strategy = "no"
        last = number == len(stages) - 1
        trainer.add_callback(curve.of_stage(done, stops=last and len(stages) > 1))
        start = time.perf_counter()
        trainer.train()
        curve.end_stage(trainer, time.perf_counter() - start)
        done += int(trainer.state.global_step)
        if not last:
            trainer.save_model(str(stage.folder / MODEL))
            del trainer, policy
            policy = load_stage(recipe, stage.folder / MODEL)
    return curve.points


def rows_of(found: dict[Cell, dict[str, Any]], target: float, forgotten: float, corpus_steps: int) -> Rows:
    """What each cell had spent when it reached the target, its curve, and the ratios to the quickest of each rival.

    Args:
        found: the curve of each cell.
        target: violations.
        forgotten: corpus perplexity allowed, over plain fine-tuning's with the same seed; where no rival was run, any.
        corpus_steps: of every method; a rival's own steps come after them.
    """
    plain: dict[int, float] = {}
    for cell, told in found.items():
        if cell.method != OURS:
            plain.setdefault(cell.seed, split(told["points"], corpus_steps)[0][-1]["corpus_perplexity"])
    rows: Rows = []
    for kind, most in (("with the corpus", forgotten), ("violations alone", math.inf)):
        spent: dict[Cell, tuple[dict[str, float], bool]] = {}
        for cell, told in found.items():
            # Ours has to have learned the corpus too: it is there at its last step, if at all.
            points = told["points"][-1:] if cell.method == OURS else split(told["points"], corpus_steps)[1]
            point = reached(points, target, most * plain.get(cell.seed, math.inf))
            spent[cell] = point or points[-1], point is not None
            tags = {**_tags(cell, target), "kind": kind, "reached": str(point is not None).lower()}
            once = {"low": None, "high": None, "n": 1}
            for name, unit in SPENT:
                rows.append({"name": f"{name}_to_target", "value": spent[cell][0][name], "unit": unit, **once, **tags})
            if cell.seed in plain:
                ratio = spent[cell][0]["corpus_perplexity"] / plain[cell.seed]
                rows.append({"name": "corpus_perplexity_over_plain", "value": ratio, "unit": "×", **once, **tags})
        rows += _ratios(spent, target, kind)
    for cell, told in found.items():
        for each in told["points"]:
            rows.append({"name": "violation_rate", "value": each["rate"], "low": each["low"], "high": each["high"],
                         "n": int(each["n"]), "unit": "", "step": str(int(each["step"])), "minutes": str(each["minutes"]),
                         "corpus_perplexity": str(each["corpus_perplexity"]), **_tags(cell, target)})  # fmt: skip
    return rows


def _tags(cell: Cell, target: float) -> dict[str, str]:
    return {"method": cell.method, "way": cell.way, "seed": str(cell.seed), "target": f"{target:g}"}


def _ratios(spent: dict[Cell, tuple[dict[str, float], bool]], target: float, kind: str) -> Rows:
    """Ours over the quickest learning rate of each rival, seed by seed; none where ours is not at the target."""
    rows: Rows = []
    for rival in dict.fromkeys(cell.method for cell in spent if cell.method != OURS):
        pairs = []
        for ours in (cell for cell in spent if cell.method == OURS):
            others = [cell for cell in spent if cell.method == rival and cell.seed == ours.seed]
            if others and spent[ours][1]:
                pairs.append((ours, min(others, key=lambda cell: (not spent[cell][1], spent[cell][0]["minutes"]))))
        for name, _ in SPENT if pairs else ():
            ratios = [spent[ours][0][name] / max(spent[other][0][name], 1e-9) for ours, other in pairs]
            # Where the rival never got there, it would have taken longer still.
            bound = "exact" if all(spent[other][1] for _, other in pairs) else "at most"
            rows.append(median_row(f"{name}_over_{rival}", ratios, "×", target=f"{target:g}", kind=kind, bound=bound))
    return rows


def table(told: dict[str, Any], path: Path) -> str:
    """What each method had spent, and the ratios."""
    rows = told["rows"]
    parts = [made_by(told, path)]
    target = float(next(row["target"] for row in rows))
    for kind in dict.fromkeys(row["kind"] for row in rows if "kind" in row):
        lines = []
        for way, seed in dict.fromkeys((row["way"], row["seed"]) for row in rows if "way" in row):
            of = {r["name"]: r for r in rows if (r.get("way"), r.get("seed"), r.get("kind")) == (way, seed, kind)}
            minutes, tokens, calls = (of[f"{name}_to_target"] for name, _ in SPENT)
            there = "" if minutes["reached"] == "true" else "not reached in "
            lines.append(
                [way, seed, f"{there}{minutes['value']:.1f}", f"{tokens['value']:,.0f}", f"{calls['value']:,.0f}",
                 shown(of.get("corpus_perplexity_over_plain"))]
            )  # fmt: skip
        head = [
            "method, learning rate",
            "seed",
            "minutes",
            "tokens trained on and drawn",
            "oracle calls",
            "corpus perplexity ÷ plain",
        ]
        ratios = [
            [row["name"].replace("_", " "), f"{'≤ ' if row['bound'] == 'at most' else ''}{shown(row, '{:.3f}')}"]
            for row in rows
            if "bound" in row and row["kind"] == kind
        ]
        parts += [f"To {_KINDS[kind].format(target=target)}:", markdown_table(head, lines)]
        parts += [markdown_table(["ours ÷ the rival's", "ratio"], ratios)] if ratios else []
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
