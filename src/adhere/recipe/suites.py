"""`adhere evaluate --suite`: measure a run's model by suites, each written as soon as it is done.

Whatever can be wrong with names, files, referees or the run is found before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adhere.errors import RecipeError, RunFolderError
from adhere.evaluation.bias import bias_suite
from adhere.evaluation.detection import detection_suite
from adhere.evaluation.evaluate import inference_model
from adhere.evaluation.output_quality import Opponent, quality_suite
from adhere.evaluation.referee import Referee
from adhere.evaluation.subject import Subject, write
from adhere.evaluation.suite_data import digest, read_sources
from adhere.evaluation.suite_files import SuiteResult, write_suite
from adhere.evaluation.suite_tasks import suite_names
from adhere.evaluation.toxic_prompts import toxicity_suite
from adhere.evaluation.utility import utility_suite
from adhere.guidance.constraint import Constraint
from adhere.models.policy import ModelConfig, Policy, locate
from adhere.oracles.base import Oracle
from adhere.oracles.config import OracleConfig
from adhere.recipe.conditions import conditions_of
from adhere.recipe.evaluate import BEFORE, checked_name, chosen_judges, load_chosen, name_of
from adhere.recipe.folder import MODEL, RECIPE, saved_recipe
from adhere.recipe.inputs import build_constraints, read_inputs, satisfying
from adhere.recipe.progress import Progress, silent
from adhere.recipe.referees import check_referees, load_referees
from adhere.recipe.schema import Recipe
from adhere.recipe.suite_inputs import SuiteInputs, read_suite_inputs
from adhere.recipe.trained import load_trained
from adhere.sampling.sampler import SamplingConfig

SEED = 0
"""Of the rows that a limit leaves: the same for every run, so that models are compared on the same rows."""


def evaluate_suites(
    run_folder: Path,
    suites: str | Sequence[str],
    *,
    data: Sequence[str] = (),
    limit: int | None = None,
    referees: Sequence[str] = (),
    against: str = BEFORE,
    name: str | None = None,
    model_path: str | Path | None = None,
    judges: Mapping[str, Oracle] | Sequence[OracleConfig] | None = None,
    samples_per_prompt: int | None = None,
    progress: Progress | None = None,
) -> list[SuiteResult]:
    """Measure a model by suites and write each to the run's `evaluation/<suite>/`.

    Args:
        run_folder: whose recipe says how outputs are drawn, who judges, and what is held out.
        suites: of toxicity, utility, quality, detection, bias; names, or one string with commas.
        data: a folder of suite files, and TASK=FILE or TASK=HUB-ID; without it data sets of the hub.
        limit: rows a task, and held-out prompts, at most.
        referees: other models that read outputs: a folder or hub id, or NAME@URL for a chat endpoint.
        against: whose outputs a win rate compares with: `before`, a run folder, a model's folder or hub id.
        name, model_path, judges, samples_per_prompt: as for `evaluate_run`.
        progress: told of every part.

    Raises:
        RecipeError: an unknown suite, task or setting. CorpusError: a suite's rows cannot be read or lack a column.
        RunFolderError: no run there, or it has not ended. OracleError: a judge or referee cannot be used.
        ModelError, DownloadError: something cannot be loaded.
    """
    tell = progress or silent
    names = suite_names(suites)
    recipe = _with_samples(saved_recipe(run_folder), samples_per_prompt)
    called = checked_name(name or name_of(recipe, model_path))
    _check_models(run_folder, model_path, against if "quality" in names and referees else None)
    tell("reading the suites' data", 0, 0, "")
    inputs = read_suite_inputs(names, read_sources(data), limit, SEED)
    asks = bool({"quality", "bias"} & set(names))
    if asks:
        check_referees(referees)
    constraints, second = build_constraints(recipe.constraints), chosen_judges(recipe, judges)
    if shared := {constraint.name for constraint in constraints} & second.keys():
        raise RecipeError(f"a judge and a constraint are both called {min(shared)!r}; give the judge another name")
    tell("loading the model", 0, 0, "")
    policy = load_chosen(run_folder, recipe, model_path)
    readers = load_referees(referees) if asks else []
    results = []
    with inference_model(policy.model) as still:
        work = _Work(
            Subject(called, still, policy.tokenizer), run_folder, recipe, policy, inputs, constraints, second, readers,
            "" if str(model_path or run_folder) == against else against, limit, tell,
        )  # fmt: skip
        for suite in names:
            result = _finished(_MEASURE[suite](work), work, str(model_path or run_folder / MODEL))
            write_suite(run_folder, result)
            results.append(result)
    return results


@dataclass(frozen=True, slots=True)
class _Work:
    """What every suite is given."""

    subject: Subject
    run_folder: Path
    recipe: Recipe
    policy: Policy
    inputs: SuiteInputs
    constraints: Sequence[Constraint]
    judges: Mapping[str, Oracle]
    referees: Sequence[Referee]
    against: str  # empty where that would be the model itself
    limit: int | None
    tell: Progress

    @property
    def sampling(self) -> SamplingConfig:
        """How outputs are drawn."""
        return self.recipe.evaluation.sampling or self.recipe.sampling

    @property
    def samples_per_prompt(self) -> int:
        """How many outputs of a prompt."""
        return self.recipe.evaluation.samples_per_prompt


def _toxicity(work: _Work) -> SuiteResult:
    oracles = {constraint.name: constraint.oracle for constraint in work.constraints}
    count = work.samples_per_prompt
    k = work.recipe.evaluation.toxicity_k or count
    rows = work.inputs.rows["toxicity"]
    return toxicity_suite(
        work.subject, rows, oracles, work.judges, work.sampling, count, k, work.recipe.seed, work.tell
    )


def _utility(work: _Work) -> SuiteResult:
    # Rows of ours are already as few as the limit says.
    limit = None if work.inputs.rows["utility"] else work.limit
    return utility_suite(work.subject, work.inputs.harness, limit, SEED, work.tell)


def _quality(work: _Work) -> SuiteResult:
    held = read_inputs(work.recipe, work.policy.tokenizer, work.policy.context_length)
    prompts = [prompt.text for prompt in held.heldout_prompts[: work.limit]]
    human = list(satisfying(held.heldout, work.constraints)["completion"])
    opponent = _opponent(work, prompts) if work.referees and work.against else None
    return quality_suite(
        work.subject, prompts, human, work.referees, opponent, work.sampling, work.samples_per_prompt, work.recipe.seed,
        work.tell,
    )  # fmt: skip


def _detection(work: _Work) -> SuiteResult:
    return detection_suite(work.subject, work.inputs.rows["detection"]["detection"], work.tell)


def _bias(work: _Work) -> SuiteResult:
    return bias_suite(work.subject, work.inputs.rows["bias"], work.referees, work.sampling, work.recipe.seed, work.tell)


_MEASURE: dict[str, Callable[[_Work], SuiteResult]] = {
    "toxicity": _toxicity,
    "utility": _utility,
    "quality": _quality,
    "detection": _detection,
    "bias": _bias,
}


def _opponent(work: _Work, prompts: Sequence[str]) -> Opponent:
    """The other model's outputs, drawn as ours are."""
    work.tell(f"loading {work.against}", 0, 0, "")
    folder = Path(work.against)
    if (folder / RECIPE).exists():
        policy = load_trained(folder, saved_recipe(folder))
    else:
        policy = load_chosen(work.run_folder, work.recipe, work.against)
    name = folder.name if work.against != BEFORE else BEFORE
    with inference_model(policy.model) as still:
        other = Subject(name, still, policy.tokenizer)
        return Opponent(
            name,
            write(other, prompts, work.sampling, work.samples_per_prompt, work.recipe.seed, work.tell, "sampling"),
        )


def _finished(result: SuiteResult, work: _Work, model: str) -> SuiteResult:
    """The result with what it was measured under, and with what was missing."""
    limit = {} if work.limit is None else {"limit": str(work.limit)}
    rows = {task: digest(of_task) for task, of_task in work.inputs.rows[result.suite].items()}
    if result.suite == "quality":
        rows[""] = digest([item["prompt"] for item in result.items if item["task"] == "output"])
    measured = []
    for each in result.measurements:
        of_task = each.tags.get("task", "")
        same = {"rows": rows[of_task]} if of_task in rows else {}
        measured.append(replace(each, tags={"suite": result.suite, **each.tags, **limit, **same}))
    dtype = str(work.subject.model.dtype).removeprefix("torch.")
    places = {f"data {task}": place for task, place in work.inputs.places.items() if task in _tasks(result)}
    settings = {
        **conditions_of(work.recipe, work.constraints, work.judges),
        "path": model,
        "dtype": dtype,
        **limit,
        **places,
    }
    notes = (*work.inputs.notes[result.suite], *result.notes)
    return replace(result, measurements=tuple(measured), settings=settings, notes=notes)


def _tasks(result: SuiteResult) -> set[str]:
    return {each.tags["task"] for each in result.measurements if "task" in each.tags}


def _check_models(run_folder: Path, model_path: str | Path | None, against: str | None) -> None:
    """Raises where the run has no model yet, or a folder that is named holds none."""
    if model_path is None and not (run_folder / MODEL).is_dir():
        raise RunFolderError(
            f"{run_folder} holds no trained model yet ({MODEL}/ is missing): finish it with --resume, or measure another "
            f"one (--model; {BEFORE}: what it began with)"
        )
    if model_path is not None and str(model_path) != BEFORE:
        locate(ModelConfig(path=str(model_path)))
    if against is None or against == BEFORE:
        return
    if not (Path(against) / RECIPE).exists():
        locate(ModelConfig(path=against))
    elif not (Path(against) / MODEL).is_dir():
        raise RunFolderError(f"{against} holds no trained model yet ({MODEL}/ is missing): finish it with --resume")


def _with_samples(recipe: Recipe, samples_per_prompt: int | None) -> Recipe:
    if samples_per_prompt is None:
        return recipe
    k = min(recipe.evaluation.toxicity_k or samples_per_prompt, samples_per_prompt)
    changed = {"samples_per_prompt": samples_per_prompt, "toxicity_k": k}
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update=changed)})
