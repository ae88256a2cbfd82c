"""What some methods do once with the fine-tuned model: draw pairs of its outputs (dpo), fit guidance (guided-decoding)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adhere.baselines.pairs import Pair, check_pairs, corpus_candidates, pairs_of, sampled_candidates
from adhere.baselines.rollouts import Rollouts
from adhere.baselines.whole_outputs import on_whole_outputs
from adhere.costs import Ledger
from adhere.data.sample_store import SampleStore
from adhere.guidance.config import RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.models.policy import Policy
from adhere.recipe.check import Prepared
from adhere.recipe.plan import training_steps
from adhere.recipe.progress import Progress
from adhere.recipe.schema import Recipe
from adhere.recipe.training_log import EventsTold
from adhere.recipe.workload import guidance_samples, pair_samples
from adhere.training.corpus_labels import CorpusLabels
from adhere.training.progress_log import satisfaction_numbers


def preference_pairs(recipe: Recipe, prepared: Prepared, policy: Policy, step: int, progress: Progress) -> list[Pair]:
    """Pairs of the policy's outputs, and of corpus rows where the recipe says so, ranked by the oracles.

    Args:
        policy: the fine-tuned model.
        step: how many steps it was trained for.

    Raises:
        RecipeError: there is no pair. OracleError, RunFolderError: as a refresh of guidance.
    """
    config, rows = recipe.baselines.preference, prepared.inputs.rows
    constraints = on_whole_outputs(prepared.constraints)
    missing = recipe.guidance.max_without_verdict
    refresh = RefreshConfig(
        samples=pair_samples(recipe, training_steps(recipe, len(rows))),
        samples_per_prompt=config.samples_per_prompt,
        max_without_verdict=missing,
    )
    with Ledger(recipe.output_dir).timed("pairs"):
        labelled = _rollouts(recipe, prepared, policy, step, constraints, refresh, "pairs", progress).labelled()
        candidates = sampled_candidates(labelled)
        prompts = [candidate.prompt_ids for candidate in candidates]
        if config.corpus:
            labels = CorpusLabels(rows, constraints, policy.tokenizer, recipe.output_dir, missing)
            candidates += corpus_candidates(rows, labels.verdicts())
        pairs = pairs_of(candidates, prompts)
    check_pairs(pairs, candidates)
    return pairs


def fit_guidance(recipe: Recipe, prepared: Prepared, policy: Policy, step: int, progress: Progress) -> dict[str, Any]:
    """One NADO for each constraint, in the run's `guidance/`, from as many outputs as the constrained method draws.

    Args:
        policy: the fine-tuned model, as it will be loaded.
        step: how many steps it was trained for.

    Returns:
        a line for the log: what satisfies among the outputs, and how well NADO tells.

    Raises:
        GuidanceError: nothing tells good from bad. OracleError, RunFolderError: as a refresh of guidance.
    """
    drawn = {"samples": guidance_samples(recipe, training_steps(recipe, len(prepared.inputs.rows)))}
    refresh = RefreshConfig(**(recipe.guidance.model_dump(include=set(RefreshConfig.model_fields)) | drawn))
    with Ledger(recipe.output_dir).timed("guidance"):
        rows, missing = prepared.inputs.rows, refresh.max_without_verdict
        labels = CorpusLabels(rows, prepared.constraints, policy.tokenizer, recipe.output_dir, missing)
        corpus = labels.evidence(recipe.nado_fit.corpus_rows, recipe.seed)
        rollouts = _rollouts(recipe, prepared, policy, step, prepared.constraints, refresh, "guidance", progress)
        guidance = rollouts.guidance(corpus, recipe.nado, recipe.nado_fit)
    samples = SampleStore(recipe.output_dir).labelled(guidance.version.iteration)
    line: dict[str, Any] = {"step": step, "iteration": float(guidance.version.iteration)}
    for name, quality in guidance.version.quality.items():
        line |= satisfaction_numbers(name, samples)
        line |= {f"nado/{name}/{key}": value for key, value in quality.items()}
    return line


def _rollouts(
    recipe: Recipe,
    prepared: Prepared,
    policy: Policy,
    step: int,
    constraints: Sequence[Constraint],
    refresh: RefreshConfig,
    purpose: str,
    progress: Progress,
) -> Rollouts:
    log = EventsTold(recipe.output_dir, progress, purpose)
    return Rollouts(
        policy=policy,
        step=step,
        constraints=constraints,
        prompts=prepared.inputs.prompts,
        sampling=recipe.sampling,
        refresh=refresh,
        folder=recipe.output_dir,
        seed=recipe.seed,
        report=lambda event, numbers: log.event(event, step, numbers),
    )
