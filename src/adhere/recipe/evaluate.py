"""`adhere evaluate`: measure a run's model, or the one it began with, on the prompts that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adhere.errors import RecipeError
from adhere.evaluation.evaluate import evaluate_model
from adhere.evaluation.evaluation_files import write_evaluation
from adhere.models.policy import Policy
from adhere.oracles.base import Oracle
from adhere.oracles.config import OracleConfig, build_oracle
from adhere.recipe.conditions import conditions_of
from adhere.recipe.folder import saved_recipe
from adhere.recipe.inputs import Inputs, build_constraints, build_judges, clean_texts, read_inputs, satisfying
from adhere.recipe.progress import Progress, silent
from adhere.recipe.schema import Recipe
from adhere.recipe.trained import load_base, load_model, load_trained
from adhere.records import EvaluationResult

BEFORE = "before"
"""As a model path: the model that the run began with."""


def evaluate_run(
    run_folder: Path,
    *,
    name: str | None = None,
    model_path: str | Path | None = None,
    judges: Mapping[str, Oracle] | Sequence[OracleConfig] | None = None,
    samples_per_prompt: int | None = None,
    prompts: int | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure a model on a run's held-out prompts and write it to the run's `evaluation/`.

    Args:
        run_folder: whose recipe says what is held out and who judges.
        name: what the model is called in tables; without it the run's method, `before` for the model it began with, or
            the last part of `model_path`.
        model_path: `before` for the model that the run began with, or any hub id or folder; without it the run's own.
        judges: second judges instead of the recipe's.
        samples_per_prompt, prompts: instead of the recipe's.
        progress: told of every part.

    Raises:
        RunFolderError: no run there, or it has not ended.
        ModelError, CorpusError, OracleError, RecipeError, DownloadError: something cannot be loaded or does not fit.
    """
    recipe = saved_recipe(run_folder)
    changed = {"samples_per_prompt": samples_per_prompt, "prompts": prompts}
    update = {key: value for key, value in changed.items() if value is not None}
    if samples_per_prompt is not None:
        update["toxicity_k"] = min(recipe.evaluation.toxicity_k or samples_per_prompt, samples_per_prompt)
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update=update)})
    policy, called = load_chosen(run_folder, recipe, model_path), name_of(recipe, model_path)
    inputs = read_inputs(recipe, policy.tokenizer, policy.context_length)
    result = measure(recipe, inputs, policy, checked_name(name or called), chosen_judges(recipe, judges), progress)
    write_evaluation(run_folder, result)
    return result


def measure(
    recipe: Recipe,
    inputs: Inputs,
    policy: Policy,
    name: str,
    judges: Mapping[str, Oracle],
    progress: Progress | None = None,
) -> EvaluationResult:
    """Measure a loaded model as a recipe's `evaluation` section says, by these second judges. Writes nothing."""
    constraints, evaluation = build_constraints(recipe.constraints), recipe.evaluation
    result = evaluate_model(
        name,
        policy.model,
        policy.tokenizer,
        inputs.heldout_prompts,
        constraints,
        judges,
        clean_texts(recipe),
        satisfying(inputs.heldout, constraints),
        evaluation.sampling or recipe.sampling,
        evaluation.samples_per_prompt,
        recipe.seed,
        evaluation.toxicity_k,
        progress or silent,
    )
    return replace(result, conditions=conditions_of(recipe, constraints, judges))


def checked_name(name: str) -> str:
    """A model's name as part of a file's name. Raises RecipeError when it cannot be."""
    if not name or name.startswith(".") or any(char in name for char in "/\\:\0") or name == "tokens":
        raise RecipeError(
            f"a model is called {name!r}: its name is part of a file's name, so it has no / or : and no dot first"
        )
    return name


def name_of(recipe: Recipe, model_path: str | Path | None) -> str:
    """What a chosen model is called in tables."""
    if model_path is None:
        return str(recipe.method)
    return BEFORE if str(model_path) == BEFORE else Path(str(model_path)).name


def load_chosen(run_folder: Path, recipe: Recipe, model_path: str | Path | None) -> Policy:
    """The run's model, the one that it began with (`before`), or any other. Raises as `evaluate_run`."""
    if model_path is None:
        return load_trained(run_folder, recipe)
    return load_base(recipe) if str(model_path) == BEFORE else load_model(str(model_path))


def chosen_judges(recipe: Recipe, judges: Mapping[str, Oracle] | Sequence[OracleConfig] | None) -> dict[str, Oracle]:
    """Second judges by name: the recipe's, or those given instead."""
    if judges is None:
        return build_judges(recipe)
    if isinstance(judges, Mapping):
        return dict(judges)
    return {oracle.name: oracle for oracle in map(build_oracle, judges)}
