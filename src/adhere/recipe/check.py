"""Everything that can go wrong with a run, looked at before anything is spent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adhere import ranks
from adhere.errors import GuidanceError, OracleError, RecipeError, RunFolderError
from adhere.guidance.constraint import Constraint
from adhere.guidance.ray_config import require_ray
from adhere.models.outline import outline
from adhere.models.policy import Policy, load_policy
from adhere.oracles.base import Oracle, judge
from adhere.recipe.arguments import arguments_for
from adhere.recipe.folder import check_folder
from adhere.recipe.inputs import Inputs, build_constraints, build_judges, clean_texts, read_inputs
from adhere.recipe.overlap import goes_on_otherwise, nothing_meanwhile
from adhere.recipe.plan import Plan, disk_needed, make_plan, training_steps
from adhere.recipe.schema import Recipe
from adhere.recipe.service_costs import service_costs
from adhere.recipe.stages import stages_of
from adhere.sampling.backend import check_backend
from adhere.sampling.sampler import TransformersSampler, draw_all
from adhere.training.domains import check_domains, domains_of
from adhere.training.method_config import iterations_in

ROWS_JUDGED = 64
"""Corpus rows on which every oracle is tried; more where all of these got the same score."""
MORE_ROWS_JUDGED = 512
OUTPUTS_JUDGED = 64

IN_SEVERAL_PROCESSES = ("constrained", "sft", "filtered-sft")
"""Methods that train under a launcher (`accelerate launch`)."""

_SAMPLED_BY_BACKEND = ("constrained", "dpo", "guided-decoding")
"""Methods whose outputs are drawn as guidance's are; those of reinforcement learning TRL draws itself."""

PROBES = (
    "", "a", "12345", '{"key": [1, 2]}', "THE END!!!", "You are a stupid fucking idiot.", "I will kill you, you bitch.",
    "Thank you very much for your help.", "def f(x):\n    return x + 1", "Call 555-0100 or mail ann@example.org.",
    "one two three four five six seven eight nine ten " * 8, "Ωμέγα 漢字 🙂",
)  # fmt: skip
"""Texts as different as can be: an oracle that scores them all alike probably scores everything so."""


@dataclass(slots=True)
class Prepared:
    """What a checked recipe turned into."""

    inputs: Inputs
    constraints: list[Constraint]
    judges: dict[str, Oracle]
    plan: Plan


def check_recipe(recipe: Recipe, *, resume: bool = False) -> Plan:
    """Validate everything that a run needs, and say what it will take. Writes nothing.

    Args:
        recipe: the run.
        resume: the folder may hold the beginning of this very run.

    Raises:
        ModelError, CorpusError, OracleError, GuidanceError, RunFolderError, RecipeError, DownloadError: what is wrong.
    """
    ranks.join()
    return ranks.on_first(lambda: prepare(recipe, lambda: load_policy(recipe.model, recipe.seed), resume=resume).plan)


def prepare(recipe: Recipe, policy: Callable[[], Policy], *, resume: bool = False) -> Prepared:
    """`check_recipe` that hands on what it has read.

    Args:
        policy: loads the model; called only where nothing cheaper can tell whether an oracle is constant.
    """
    check_folder(recipe, resume)
    if ranks.launched() > 1 and recipe.method not in IN_SEVERAL_PROCESSES:
        raise RecipeError(
            f"method {recipe.method} trains in one process, and here are {ranks.launched()}: run it without the launcher "
            f"(in several processes train {', '.join(IN_SEVERAL_PROCESSES)})"
        )
    arguments_for(recipe)
    model = outline(recipe.model)
    if recipe.method == "constrained" and recipe.guidance.where(recipe.guidance.schedule) == "ray":
        require_ray()
    if recipe.method in _SAMPLED_BY_BACKEND:
        check_backend(
            recipe.sampling,
            model.tokenizer,
            adapted=recipe.model.lora is not None,
            quantized=recipe.model.quantization is not None,
        )
    inputs = read_inputs(recipe, model.tokenizer, model.context_length)
    steps = training_steps(recipe, len(inputs.rows))
    free = free_bytes(recipe.output_dir)
    if (needed := disk_needed(recipe, model, steps) - _held_bytes(recipe.output_dir)) > free:
        raise RunFolderError(
            f"no disk space: the run needs up to {needed / 2**30:.1f} GiB in {str(recipe.output_dir)!r} (checkpoints, "
            f"final model), and {free / 2**30:.1f} GiB are free there: make room, choose another output_dir, or lower "
            "training.save_total_limit (at least 2)"
        )
    stages_of(recipe, len(inputs.rows))
    if recipe.method == "constrained" and iterations_in(steps, recipe.guidance.iterations) > steps:
        raise RecipeError(
            f"guidance.iterations is {recipe.guidance.iterations}, and the run has only {steps} steps "
            "(training.max_steps, training.epochs): every iteration trains at least one step"
        )
    clean_texts(recipe)
    constraints, judges = build_constraints(recipe.constraints), build_judges(recipe)
    if recipe.method == "constrained":
        prompted = {prompt.domain for prompt in inputs.prompts}
        check_domains(recipe.domains, constraints, domains_of(inputs.rows), prompted)
    warnings = [*(goes_on_otherwise(recipe) if resume else ()), *inputs.warnings]
    warnings += nothing_meanwhile(recipe, steps)
    warnings += [f"{number:,} corpus rows left out: {reason}" for reason, number in inputs.corpus.skipped.items()]
    for oracle in judges.values():
        _scores(oracle, inputs, ROWS_JUDGED)
    if not judges:
        warnings.append(
            "no second judge (evaluation.judges): who is trained against an oracle may only have learned to fool it"
        )
    for constraint in constraints:
        warning = _constant(recipe, constraint, inputs, policy)
        warnings += [warning] if warning else []
    plan = make_plan(recipe, model, inputs, free, warnings)
    expected = [sentence for constraint in constraints if (sentence := service_costs(constraint, recipe, plan))]
    return Prepared(inputs, constraints, judges, replace(plan, warnings=(*plan.warnings, *expected)))


def prepare_together(recipe: Recipe, policy: Callable[[], Policy], *, resume: bool = False) -> Prepared:
    """`prepare` in the first of several processes; the others then read what they train on, and try no oracle."""
    made: list[Prepared] = []

    def first() -> Plan:
        made.append(prepare(recipe, policy, resume=resume))
        return made[0].plan

    plan = ranks.on_first(first)
    if made:
        return made[0]
    model = outline(recipe.model)
    inputs = read_inputs(recipe, model.tokenizer, model.context_length)
    return Prepared(inputs, build_constraints(recipe.constraints), {}, plan)


def free_bytes(folder: Path) -> int:
    """Free space where a folder is or would be made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _held_bytes(folder: Path) -> int:
    """What a run that is resumed has written already."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _scores(oracle: Oracle, inputs: Inputs, rows: int) -> list[float]:
    """Scores of corpus rows, evenly apart; those without a verdict left out.

    Raises:
        OracleError: there is none at all, and the oracle can say why.
    """
    step = max(1, len(inputs.rows) // rows)
    chosen = inputs.rows.select(range(0, len(inputs.rows), step)[:rows])
    scores = [score for score in judge(oracle, chosen["prompt"], chosen["completion"]) if score is not None]
    if not scores and (why := oracle.trouble()):
        raise OracleError(
            f"oracle {oracle.name!r} gave no verdict on any of {len(chosen)} corpus rows tried: {why}. Check its address, "
            "its key and its limits (constraints.oracle, evaluation.judges), or wait until it answers"
        )
    return scores


def _constant(recipe: Recipe, constraint: Constraint, inputs: Inputs, policy: Callable[[], Policy]) -> str | None:
    """Try the oracle on the corpus. When it tells no rows apart, find out whether it tells anything apart.

    Returns:
        a warning where the corpus alone has nothing to tell apart, else None.

    Raises:
        OracleError: it broke its contract. GuidanceError: it gives everything the same score.
    """
    scores = _scores(constraint.oracle, inputs, ROWS_JUDGED)
    if _alike(scores):
        scores = _scores(constraint.oracle, inputs, MORE_ROWS_JUDGED)
    if not _alike(scores):
        return None
    if not scores:
        return f"constraint {constraint.name!r}: its oracle gave no verdict on any corpus row tried"
    said = "satisfies" if scores[0] >= 0.5 else "violates"
    warning = (
        f"constraint {constraint.name!r}: every corpus row tried ({len(scores)}) {said} it; unless the model's own "
        "outputs differ, there is nothing to learn"
    )
    if recipe.method != "constrained":
        return warning
    probed = [score for score in judge(constraint.oracle, [""] * len(PROBES), PROBES) if score is not None]
    if not _alike(scores + probed) or not _alike(
        scores + (drawn := _own_outputs(recipe, constraint, inputs, policy()))
    ):
        return warning
    raise GuidanceError(
        f"constraint {constraint.name!r}: its oracle gives {scores[0]:g} to everything: {len(scores)} corpus rows, "
        f"{len(PROBES)} texts as different as can be, {len(drawn)} outputs of the model. So nothing tells good from "
        "bad. Check that the oracle judges what is meant (constraints.oracle) and reads the right way round "
        "(1 = satisfied); otherwise add corpus rows of the other kind"
    )


def _own_outputs(recipe: Recipe, constraint: Constraint, inputs: Inputs, policy: Policy) -> list[float]:
    sampler = TransformersSampler(policy.model, policy.tokenizer, recipe.sampling)
    prompts = inputs.prompts[: min(OUTPUTS_JUDGED, recipe.guidance.samples)]
    outputs = list(draw_all(sampler, prompts, seed=recipe.seed))
    scores = judge(constraint.oracle, [o.prompt for o in outputs], [o.output for o in outputs])
    return [score for score in scores if score is not None]


def _alike(scores: Sequence[float]) -> bool:
    return not scores or max(scores) - min(scores) < 1e-6
