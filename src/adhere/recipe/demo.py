"""`adhere demo`: before, plainly fine-tuned and constrained, measured side by side on a real model.

Every part is on disk when the next begins, so that a demo that was stopped goes on with the part it was in.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from adhere.evaluation.evaluation_files import evaluation_path, read_evaluation, write_evaluation
from adhere.files import write_json_atomic
from adhere.models.policy import Policy
from adhere.oracles.base import Oracle
from adhere.recipe.comparison import compared
from adhere.recipe.evaluate import measure
from adhere.recipe.folder import begin, check_folder, finished
from adhere.recipe.inputs import build_judges, read_inputs
from adhere.recipe.load import parse_recipe
from adhere.recipe.lock import run_lock
from adhere.recipe.manifest import command, machine, now, versions
from adhere.recipe.progress import Progress, silent
from adhere.recipe.schema import Recipe
from adhere.recipe.token_reading import write_tokens
from adhere.recipe.train import train_recipe
from adhere.recipe.trained import load_base, load_trained
from adhere.records import EvaluationResult, Measurement

QUICK = (
    "training.max_steps=6", "training.logging_steps=2", "guidance.iterations=2", "guidance.samples=32",
    "nado_fit.epochs=1", "nado_fit.corpus_rows=64", "nado_fit.consistency_positions=64", "evaluation.prompts=40",
    "evaluation.samples_per_prompt=1", "evaluation.clean_count=16",
)  # fmt: skip
"""What `--quick` changes: it shows that everything works here, and nothing else."""

SFT = "sft"
TIMES = "times.json"
_READ_ALOUD = 6  # outputs of each model whose tokens are coloured


def demo_recipe(output: Path, *, quick: bool = False, seed: int = 0) -> Recipe:
    """The recipe of the demo; its YAML is part of the package."""
    text = files("adhere.recipe").joinpath("demo.yaml").read_text(encoding="utf-8")
    settings = [f"seed={seed}", f"output_dir={json.dumps(str(output))}", *(QUICK if quick else ())]
    return parse_recipe(text, "adhere/recipe/demo.yaml", settings)


def demo(
    output: Path, *, quick: bool = False, resume: bool = False, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Run the demo.

    Args:
        output: the run folder: of the constrained run, with the plain one below it in `sft/`.
        quick: far fewer steps and outputs; its numbers say nothing.
        resume: go on with the demo that was stopped in this folder.
        seed: of everything that is drawn.
        progress: told of every part.

    Returns:
        the run folder, with `evaluation/`, `summary.json` and `report.html` in it.

    Raises:
        AdhereError: as `train_recipe` and `evaluate_run`.
    """
    return compare_methods(demo_recipe(output, quick=quick, seed=seed), "demo", resume=resume, progress=progress)


def compare_methods(recipe: Recipe, benchmark: str, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Measure a recipe's model before, after plain fine-tuning and after constrained fine-tuning, and report on it.

    Args:
        recipe: of the method `constrained`.
        benchmark: what `summary.json` calls it.
    """
    from adhere.report.html import write_report

    folder, tell = recipe.output_dir, progress or silent
    check_folder(recipe, resume)
    plain = recipe.model_copy(update={"method": SFT, "output_dir": folder / SFT})
    with run_lock(folder):
        check_folder(recipe, resume)
        begin(recipe)
        times = _Times(folder)
        measured = partial(_measured, recipe, cache(lambda: build_judges(recipe)), times, tell)
        results = [measured("before", lambda: load_base(recipe))]
        for each in (plain, recipe):
            if finished(each.output_dir) is None:
                train_recipe(each, resume=True, progress=tell)
                _remove_checkpoints(each.output_dir)
            results.append(measured(each.method, partial(load_trained, each.output_dir, each)))
        tell("writing the report", 0, 0)
        write_tokens(recipe, results[1:], _READ_ALOUD)
        training = [_train_seconds(folder / SFT, SFT), _train_seconds(folder, recipe.method)]
        _write_summary(recipe, benchmark, [*_rows(results), *training, *compared(results[2], results[1])], times)
        write_report(folder)
    return folder


def _measured(
    recipe: Recipe,
    judges: Callable[[], dict[str, Oracle]],
    times: _Times,
    tell: Progress,
    name: str,
    load: Callable[[], Policy],
) -> EvaluationResult:
    """The evaluation of a model, from disk where it is there already."""
    if not evaluation_path(recipe.output_dir, name).exists():
        start, policy = time.monotonic(), load()
        inputs = read_inputs(recipe, policy.tokenizer, policy.context_length)
        write_evaluation(recipe.output_dir, measure(recipe, inputs, policy, name, judges(), tell))
        times.add(f"evaluating {name}", time.monotonic() - start)
    return read_evaluation(recipe.output_dir, name)


class _Times:
    """Seconds of every part, kept in `times.json` so that a resumed demo knows them all."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TIMES
        try:
            self.seconds: dict[str, float] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.seconds = {}

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = seconds
        write_json_atomic(self._path, self.seconds)


def _remove_checkpoints(folder: Path) -> None:
    """Gigabytes that only a run that has not ended needs."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def _train_seconds(folder: Path, name: str) -> dict[str, Any]:
    told = finished(folder) or {}
    seconds = Measurement("train_seconds", float(told.get("train_seconds", 0.0)), n=int(told.get("steps", 0)), unit="s")
    return {**seconds.to_row(), "model": name}


def _rows(results: Iterable[EvaluationResult]) -> list[dict[str, Any]]:
    return [{**each.to_row(), "model": result.model} for result in results for each in result.measurements]


def _write_summary(recipe: Recipe, benchmark: str, rows: list[dict[str, Any]], times: _Times) -> None:
    write_json_atomic(
        recipe.output_dir / "summary.json",
        {
            "benchmark": benchmark,
            "command": command(),
            "date": now(),
            "machine": machine(),
            "versions": versions(),
            "seeds": [recipe.seed],
            "seconds": times.seconds,
            "rows": rows,
        },
    )
