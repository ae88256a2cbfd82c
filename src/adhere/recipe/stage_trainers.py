"""The trainer of each stage of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback, Trainer

from adhere.costs import Ledger
from adhere.data.collation import ConstrainedCollator
from adhere.models.policy import Policy
from adhere.recipe.after_fine_tuning import preference_pairs
from adhere.recipe.arguments import constrained_arguments, plain_arguments, training_device, trl_arguments
from adhere.recipe.check import Prepared
from adhere.recipe.progress import Progress
from adhere.recipe.schema import Recipe
from adhere.recipe.stages import TITLES, Stage
from adhere.recipe.training_log import EventsTold, StepsTold
from adhere.training.guarded import GuardedTrainer
from adhere.training.sealing import SealsCheckpoints
from adhere.training.step_costs import StepCosts
from adhere.training.trainer import ConstrainedTrainer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

_LEARNED_FROM = ("input_ids", "attention_mask", "labels", "row")


def stage_trainer(
    recipe: Recipe, prepared: Prepared, policy: Policy, stage: Stage, before: int, progress: Progress
) -> Trainer:
    """What trains a stage, ready to `train`.

    Args:
        policy: what the stage begins with.
        before: optimiser steps of the stages before it.

    Raises:
        CorpusError, OracleError, RecipeError, RunFolderError: what the method makes of the corpus or of the policy's
            outputs before it trains is not there or cannot be made.
    """
    told = StepsTold(TITLES[stage.method], progress)
    if stage.method == "constrained":
        trainer: Trainer = ConstrainedTrainer(
            model=policy,
            args=constrained_arguments(recipe, stage.folder),
            train_dataset=prepared.inputs.corpus.train,
            constraints=prepared.constraints,
            prompts=prepared.inputs.prompts,
            callbacks=[told],
        )
        trainer.progress = EventsTold(stage.folder, progress)  # type: ignore[attr-defined]
    else:
        callbacks: list[TrainerCallback] = [told, StepCosts(recipe.output_dir, stage.method)]
        policy.model.to(training_device())  # type: ignore[arg-type]
        if stage.method in ("rloo", "grpo", "dpo"):
            callbacks.append(SealsCheckpoints())
        if stage.method in ("rloo", "grpo"):
            trainer = _reinforcement(recipe, prepared, policy, stage, callbacks)
        elif stage.method == "dpo":
            trainer = _preference(recipe, prepared, policy, stage, before, callbacks, progress)
        else:
            trainer = _plain(recipe, prepared, policy, stage, callbacks, progress)
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    return trainer


def _plain(
    recipe: Recipe, prepared: Prepared, policy: Policy, stage: Stage, callbacks: list[TrainerCallback], tell: Progress
) -> Trainer:
    rows: Dataset = prepared.inputs.rows
    if stage.method == "filtered-sft":
        from adhere.baselines.filtered_rows import filtered_rows

        tell("filtering the corpus", 0, 0)
        with Ledger(recipe.output_dir).timed("filtering"):
            missing = recipe.guidance.max_without_verdict
            rows = filtered_rows(rows, prepared.constraints, policy.tokenizer, recipe.output_dir, missing)
        tell("filtering the corpus", 1, 1, f"{len(rows):,} of {len(prepared.inputs.rows):,} rows stay")
    trainer = GuardedTrainer(
        model=policy.model,
        args=plain_arguments(recipe, stage.folder, stage.steps),
        train_dataset=rows,
        data_collator=PlainCollator(ConstrainedCollator(policy.tokenizer)),
        processing_class=policy.tokenizer,
        callbacks=callbacks,
        health=recipe.health,
    )
    trainer.progress = EventsTold(stage.folder, tell)
    return trainer


def _reinforcement(
    recipe: Recipe, prepared: Prepared, policy: Policy, stage: Stage, callbacks: list[TrainerCallback]
) -> Trainer:
    from adhere.baselines.reinforcement import reinforcement_trainer
    from adhere.baselines.reward import OracleReward

    reward = OracleReward(
        prepared.constraints,
        policy.tokenizer,
        recipe.baselines.reward,
        Ledger(recipe.output_dir),
        stage.method,
        recipe.guidance.max_without_verdict,
    )
    return reinforcement_trainer(
        stage.method,
        policy,
        trl_arguments(recipe, stage.folder, stage.steps),
        prepared.inputs.prompts,
        recipe.baselines.reinforcement,
        reward,
        callbacks,
    )


def _preference(
    recipe: Recipe,
    prepared: Prepared,
    policy: Policy,
    stage: Stage,
    before: int,
    callbacks: list[TrainerCallback],
    progress: Progress,
) -> Trainer:
    from adhere.baselines.preference import preference_trainer

    pairs = preference_pairs(recipe, prepared, policy, before, progress)
    return preference_trainer(policy, trl_arguments(recipe, stage.folder, stage.steps), pairs, callbacks)


class PlainCollator:
    """The batches of constrained training with what plain fine-tuning takes of them: the same rows, the same labels.

    `row` stays, to tell which rows a step was made of; `GuardedTrainer` keeps it from the model.
    """

    def __init__(self, collate: ConstrainedCollator) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._collate(rows)
        return {name: batch[name] for name in _LEARNED_FROM}
