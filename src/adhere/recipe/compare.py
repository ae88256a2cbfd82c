"""`adhere compare`: the evaluated models of several run folders, side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adhere.costs import COSTS, read_costs
from adhere.errors import RecipeError, RunFolderError
from adhere.evaluation.evaluation_files import read_evaluation
from adhere.evaluation.side_by_side import Compared, Comparison, compare_models
from adhere.evaluation.suite_files import SuiteResult, read_suite
from adhere.files import write_text_atomic
from adhere.recipe.cells import CELL
from adhere.recipe.folder import finished, saved_recipe
from adhere.recipe.manifest import machine, now, versions
from adhere.recipe.schema import Recipe
from adhere.records import Measurement

PREFERRED = ("sft", "before")
"""What the others are compared with, where the user names nothing: the first of these that was evaluated."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """One evaluated model of one run folder."""

    folder: Path
    model: str
    alone: bool  # the only one chosen of its folder


def compare_runs(runs: Sequence[str], reference: str | None = None) -> Comparison:
    """Read what was measured in run folders and compare it.

    Args:
        runs: run folders, each with one or more evaluated models; `folder:model` chooses one of them.
        reference: what the others are compared with: a name in the table, or a model's name as `sft` where just one run
            has it. Without it the first `sft`, else the first `before`, else the first of all.

    Raises:
        RunFolderError: a folder is no run, or was not evaluated; the message has the commands that evaluate them.
        RecipeError: there is one model alone, or the reference is none of them.
    """
    chosen = [each for run in dict.fromkeys(runs) for each in _chosen(run)]
    chosen = list({(each.folder.resolve(), each.model): each for each in chosen}.values())
    names = _names(chosen)
    if len(chosen) < 2:
        raise RecipeError(
            f"a comparison needs two models, and {', '.join(map(str, runs))} has one: give more runs, or evaluate another "
            f"model of the same run (adhere evaluate {chosen[0].folder} --model before)"
        )
    models = [_compared(each, name) for each, name in zip(chosen, names, strict=True)]
    return compare_models(models, _reference(models, reference))


def write_comparison(path: Path, comparison: Comparison, typed: str, utility: str | None = None) -> Path:
    """Write the page of a comparison; `typed` is the command that made it.

    Raises:
        RecipeError: the utility asked for was not measured. RunFolderError: the page cannot be written.
    """
    from adhere.report.comparison import comparison_page

    write_text_atomic(path, comparison_page(comparison, now(), typed, utility))
    return path


def comparison_rows(comparison: Comparison, typed: str) -> dict[str, Any]:
    """A comparison as a results file has it; of the tags, `over` names what a row is compared with."""
    return {
        "benchmark": "comparison",
        "command": typed,
        "date": now(),
        "machine": machine(),
        "versions": versions(),
        "reference": comparison.reference,
        "remarks": list(comparison.remarks),
        "models": comparison.facts,
        "rows": [measured.to_row() for measured in (*comparison.measurements, *comparison.contrasts)],
    }


def evaluated_models(folder: Path) -> list[str]:
    """The models whose evaluation a run folder holds, those of a demo first."""
    found = [
        path.name.removesuffix(".samples.jsonl") for path in sorted((folder / "evaluation").glob("*.samples.jsonl"))
    ]
    found = [model for model in found if (folder / "evaluation" / f"{model}.json").exists()]
    order = ("before", "sft", "constrained")
    return [model for model in order if model in found] + [model for model in found if model not in order]


def _chosen(run: str) -> list[_Chosen]:
    folder, asked = Path(run), ""
    if not folder.exists() and ":" in run:
        name, _, asked = run.rpartition(":")
        folder = Path(name)
    if not folder.is_dir():
        raise RunFolderError(f"there is no run folder {str(folder)!r}: give one that `adhere train` wrote")
    models = evaluated_models(folder)
    if not models:
        raise RunFolderError(
            f"{folder} holds no evaluation, so there is nothing to compare: make one with `adhere evaluate {folder}`"
        )
    if asked and asked not in models:
        raise RunFolderError(f"{folder} holds no evaluation of {asked!r}; it has {', '.join(models)}")
    wanted = [asked] if asked else models
    return [_Chosen(folder, model, len(wanted) == 1) for model in wanted]


def _names(chosen: Sequence[_Chosen]) -> list[str]:
    folders = list(dict.fromkeys(each.folder.resolve() for each in chosen))
    shared = {name for name, times in Counter(map(_called, folders)).items() if times > 1}
    names = []
    for each in chosen:
        path = each.folder.resolve()
        run = f"{path.parent.name}/{path.name}" if _called(path) in shared else _called(path)
        names.append(each.model if len(folders) == 1 else run if each.alone else f"{run}:{each.model}")
    # Same name and same parent's name: what was typed tells them apart.
    twice = {name for name, times in Counter(names).items() if times > 1}
    return [f"{each.folder}:{each.model}" if name in twice else name for each, name in zip(chosen, names, strict=True)]


def _called(folder: Path) -> str:
    """The name of a run folder; of a cell without the digest in it."""
    return re.sub(r"\.[0-9a-f]{8}$", "", folder.name) if (folder / CELL).exists() else folder.name


def _compared(each: _Chosen, name: str) -> Compared:
    result = read_evaluation(each.folder, each.model)
    recipe = saved_recipe(each.folder) if (each.folder / "recipe.yaml").exists() else None
    facts = dict(_facts(each, recipe, result.conditions))
    return Compared(name, result, tuple(_suites(each)), tuple(_costs(each, recipe)), facts)


def _suites(each: _Chosen) -> Iterator[SuiteResult]:
    """What suites measured of the model."""
    for path in sorted((each.folder / "evaluation").glob(f"*/{each.model}.json")):
        yield read_suite(each.folder, path.parent.name, each.model)


def _costs(each: _Chosen, recipe: Recipe | None) -> Iterator[Measurement]:
    """What training cost, where the folder tells it of this very model."""
    below = each.folder / each.model  # a demo keeps the plain run below its own
    folder = below if below.is_dir() else each.folder
    if folder == each.folder and (recipe is None or recipe.method != each.model):
        return
    if (folder / COSTS).exists():
        costs = asdict(read_costs(folder))
        units = {"train_seconds": "s"}
        yield from (Measurement(name, float(value), unit=units.get(name, "")) for name, value in costs.items() if value)
    elif (told := finished(folder)) is not None:
        yield Measurement("train_seconds", float(told.get("train_seconds", 0.0)), n=int(told.get("steps", 0)), unit="s")


def _facts(each: _Chosen, recipe: Recipe | None, conditions: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield "run", str(each.folder)
    yield "model", each.model
    if recipe is not None:
        yield "begun with", recipe.model.path
        yield "corpus", str(recipe.corpus.path or recipe.corpus.dataset)
    for key in ("seed", "machine", "date"):
        if key in conditions:
            yield key, conditions[key]


def _reference(models: Sequence[Compared], asked: str | None) -> str:
    if asked is None:
        ours = [model.name for kind in PREFERRED for model in models if model.result.model == kind]
        return (ours or [models[0].name])[0]
    fitting = [model.name for model in models if model.name == asked]
    fitting = fitting or [model.name for model in models if model.result.model == asked]
    if len(fitting) != 1:
        names = ", ".join(model.name for model in models)
        fault = f"{len(fitting)} models are called {asked!r}" if fitting else f"there is no model {asked!r}"
        raise RecipeError(f"--reference: {fault}; give one of {names}")
    return fitting[0]
