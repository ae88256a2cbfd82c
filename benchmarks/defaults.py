"""What the defaults of the method were chosen by: one choice changed at a time, on the demo's model and corpus.

    python benchmarks/defaults.py --seeds 0 1                 # all cells; a finished cell is not run again
    python benchmarks/defaults.py --seeds 0 1 --only weight   # the cells of one choice
    python benchmarks/defaults.py --table docs/defaults.md    # from the results file; runs nothing

Each cell trains the demo's recipe with a few settings changed, measures the model as the demo does, and writes one JSON
file under `--work`; models are deleted once measured. The results file is made from the cells.

The rows that the demo holds out and reports on take no part: the corpus of a cell is what is left, split once more into
rows to learn and rows to choose by. So the demo's figures are not those of a setting chosen to make them good.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from result_files import RESULTS, put_between, read_results, results_path

if TYPE_CHECKING:
    from adhere.recipe.schema import Recipe

BENCHMARK = "defaults"
CORPUS = "corpus.jsonl"
MEASURED = (
    "violation_rate", "judge_violation_rate", "clean_perplexity", "corpus_perplexity", "distinct_2", "train_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A choice, what it is set to, and the settings that do it."""

    choice: str
    value: str
    settings: tuple[str, ...] = ()


THREE = ("guidance.iterations=3",)
"""What the demo had while most choices were measured; one iteration ships now, which their rows say."""

VARIANTS = (
    Variant("plain", "plain fine-tuning", ("method=sft",)),
    Variant("base", "three iterations", THREE),
    Variant("reference_kl", "0", (*THREE, "guidance.reference_kl=0")),
    Variant("weight", "λ = 0", (*THREE, "constraints.0.weight=0")),
    Variant("weight", "λ = 1", (*THREE, "constraints.0.weight=1")),
    Variant("weight", "λ = 3", (*THREE, "constraints.0.weight=3")),
    Variant("violating_rows", "learn", (*THREE, "guidance.violating_rows=learn")),
    Variant("violating_rows", "leave", (*THREE, "guidance.violating_rows=leave")),
    Variant("anchor", "iteration", (*THREE, "guidance.anchor=iteration")),
    Variant("anchor", "reference", (*THREE, "guidance.anchor=reference")),
    Variant("positions", "samples", (*THREE, "guidance.positions=samples")),
    Variant("positions", "both", (*THREE, "guidance.positions=both")),
    Variant("iterations", "1 (ships)"),
    Variant("iterations", "5", ("guidance.iterations=5",)),
    Variant("samples", "128 an iteration", (*THREE, "guidance.samples=128")),
    Variant("samples", "512 an iteration", (*THREE, "guidance.samples=512")),
    Variant("refresh", "128 samples, 4 epochs", (*THREE, "guidance.samples=128", "nado_fit.epochs=4")),
    Variant("half", "128 samples, 368 corpus rows", (*THREE, "guidance.samples=128", "nado_fit.corpus_rows=368")),
    Variant("nado shape", "own small transformer", (*THREE, "nado.shape=own")),
    Variant("nado learning rate", "3e-4", (*THREE, "nado_fit.learning_rate=3e-4")),
    Variant("nado learning rate", "3e-3", (*THREE, "nado_fit.learning_rate=3e-3")),
    Variant("300 steps", "plain fine-tuning", ("training.max_steps=300", "method=sft")),
    Variant("300 steps", "3 iterations", ("training.max_steps=300", "guidance.iterations=3")),
    Variant("300 steps", "1 iteration", ("training.max_steps=300",)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells asked for, then write the results file; or put its table into a document."""
    options = _options(arguments)
    path = options.results or results_path(RESULTS, BENCHMARK)
    if options.table is not None:
        put_between(options.table, "table", _table(read_results(path), path))
        return
    for seed in options.seeds:
        for variant in VARIANTS:
            if not options.only or variant.choice in options.only:
                _cell(options.work, variant, seed)
    results = _results(options.work, options.seeds, read_results(path)["rows"] if path.exists() else [])
    if results["rows"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="*", default=[], help="choices to run; all when left out")
    parser.add_argument("--work", type=Path, default=Path("runs/defaults"), help="where runs and cells are kept")
    parser.add_argument("--results", type=Path, help="the results file; named after the machine when left out")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    return parser.parse_args(arguments)


def _cell(work: Path, variant: Variant, seed: int) -> None:
    from adhere.recipe.evaluate import measure
    from adhere.recipe.folder import finished
    from adhere.recipe.inputs import build_judges, read_inputs
    from adhere.recipe.train import train_recipe
    from adhere.recipe.trained import load_trained

    recipe = _recipe(work, variant, seed)
    path, folder, name = _cell_path(work, variant, seed), recipe.output_dir, recipe.output_dir.name
    if path.exists():
        return
    _write_corpus(work)
    start = time.monotonic()
    print(f"{name} ...", file=sys.stderr, flush=True)
    train_recipe(recipe, resume=True)
    policy = load_trained(folder, recipe)
    inputs = read_inputs(recipe, policy.tokenizer, policy.context_length)
    measured = measure(recipe, inputs, policy, name, build_judges(recipe)).measurements
    tags = {"choice": variant.choice, "setting": variant.value, "seed": str(seed)}
    rows = [{**each.to_row(), **tags} for each in measured if each.name in MEASURED]
    seconds = float((finished(folder) or {}).get("train_seconds", 0.0))
    rows.append({"name": "train_seconds", "value": seconds, "unit": "s", "n": recipe.training.max_steps, **tags})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"settings": variant.settings, "rows": rows}, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    shutil.rmtree(folder)
    rates = {row["name"]: round(row["value"], 4) for row in rows}
    print(f"{name}: {time.monotonic() - start:.0f} s {rates}", file=sys.stderr, flush=True)


def _write_corpus(work: Path) -> None:
    """The rows that the demo learns: what it holds out to report on is not there to choose by."""
    from adhere.data.corpus import load_corpus
    from adhere.files import write_text_atomic
    from adhere.models.embedded import embedded_corpus
    from adhere.recipe.load import parse_recipe

    path = work / CORPUS
    if path.exists():
        return
    demo = parse_recipe(_demo(), "demo.yaml", [])
    rows = load_corpus(demo.corpus.model_copy(update={"path": embedded_corpus()})).train
    lines = [json.dumps({"text": row["prompt"] + row["completion"]}, ensure_ascii=False) for row in rows]
    write_text_atomic(path, "\n".join(lines) + "\n")


def _demo() -> str:
    return files("adhere.recipe").joinpath("demo.yaml").read_text(encoding="utf-8")


def _recipe(work: Path, variant: Variant, seed: int) -> Recipe:
    from adhere.recipe.load import parse_recipe

    folder = work / re.sub(r"[^\w.-]+", "_", f"{variant.choice}-{variant.value}-{seed}")
    settings = [
        f"seed={seed}",
        f"output_dir={json.dumps(str(folder))}",
        f"corpus.path={json.dumps(str(work / CORPUS))}",
    ]
    return parse_recipe(_demo(), "demo.yaml", [*settings, *variant.settings])


def _cell_path(work: Path, variant: Variant, seed: int) -> Path:
    """Where a cell is kept: its name holds a digest of its recipe, so a cell of another demo.yaml is never taken for it."""
    recipe = _recipe(work, variant, seed)
    digest = hashlib.sha256(recipe.model_dump_json(exclude={"output_dir"}).encode()).hexdigest()[:8]
    return work / "cells" / f"{recipe.output_dir.name}.{digest}.json"


def _results(work: Path, seeds: Sequence[int], before: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """All cells that are there, and the rows of those that are not, from the results file: made elsewhere, or by a demo.yaml
    of before.
    """
    from adhere.recipe.manifest import machine, now, versions

    paths = [_cell_path(work, variant, seed) for seed in seeds for variant in VARIANTS]
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    rows = [row for cell in cells for row in cell["rows"]]
    found = {_which(row) for row in rows}
    rows = [*(row for row in before if _which(row) not in found), *rows]
    return {
        "benchmark": BENCHMARK,
        "command": f"python benchmarks/defaults.py --seeds {' '.join(map(str, seeds))}",
        "date": now(),
        "machine": machine(),
        "versions": versions(),
        "seeds": sorted({int(row["seed"]) for row in rows}),
        "rows": rows,
    }


def _which(row: dict[str, Any]) -> tuple[str, ...]:
    return row.get("choice", ""), row["setting"], str(row["seed"])


COLUMNS = (
    ("violation_rate", "violations", "{:.3f}"),
    ("judge_violation_rate", "by the second judge", "{:.3f}"),
    ("clean_perplexity", "clean perplexity", "{:.1f}"),
    ("corpus_perplexity", "corpus perplexity", "{:.0f}"),
    ("distinct_2", "distinct-2", "{:.3f}"),
    ("train_seconds", "training, s", "{:.0f}"),
)


def _table(results: dict[str, Any], path: Path) -> str:
    """The results as a Markdown table, one line a choice and a seed; nothing in it is typed by hand."""
    rows, machine = results["rows"], results["machine"]
    lines = [
        "| choice | setting | seed | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
        "| --- | --- | --- | " + " | ".join("---:" for _ in COLUMNS) + " |",
    ]
    order = {(variant.choice, variant.value): number for number, variant in enumerate(VARIANTS)}
    found = {(row["choice"], row["setting"], row["seed"]) for row in rows}
    for choice, setting, seed in sorted(found, key=lambda key: (order.get(key[:2], len(order)), key)):
        told = {
            row["name"]: row for row in rows if (row["choice"], row["setting"], row["seed"]) == (choice, setting, seed)
        }
        cells = (_shown(told.get(name), form) for name, _, form in COLUMNS)
        lines.append(f"| {choice} | {setting} | {seed} | " + " | ".join(cells) + " |")
    about = (
        f"Made by `{results['command']}` on {machine['cpu']}, {machine['cores']} cores, {results['date'][:10]}; the numbers "
        f"are in `{path}`."
    )
    return "\n".join([about, "", *lines]) + "\n"


def _shown(row: dict[str, Any] | None, form: str) -> str:
    if row is None:
        return "–"
    value = form.format(row["value"])
    if row.get("low") is None:
        return value
    return f"{value} [{form.format(row['low'])}, {form.format(row['high'])}]"


if __name__ == "__main__":
    main()
