"""`adhere train`: a recipe to a trained model in a run folder, from the beginning or from where it was stopped."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, Trainer

from adhere.data.collation import ConstrainedCollator
from adhere.errors import RunFolderError
from adhere.files import cannot_write, write_json_atomic
from adhere.models.policy import Policy, load_policy
from adhere.recipe.arguments import constrained_arguments, plain_arguments
from adhere.recipe.check import Prepared, prepare
from adhere.recipe.checkpoints import newest_whole
from adhere.recipe.folder import FINISHED, begin, check_folder, finished
from adhere.recipe.lock import run_lock
from adhere.recipe.progress import Progress, silent
from adhere.recipe.schema import Recipe
from adhere.recipe.training_log import EventsTold, StepsTold
from adhere.training.last_step import EndsAtLastStep
from adhere.training.trainer import ConstrainedTrainer

if TYPE_CHECKING:
    import torch

MODEL = "model"
STAGES = {"constrained": "constrained fine-tuning", "sft": "plain fine-tuning"}
_LEARNED_FROM = ("input_ids", "attention_mask", "labels")


def train_recipe(recipe: Recipe, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train the model of a recipe.

    Args:
        recipe: the run; its `output_dir` is the run folder.
        resume: go on with the run that the folder holds, from its newest whole checkpoint; samples, labels and guidance
            that are on disk are used again. A finished run is left as it is.
        progress: told of every part.

    Returns:
        the run folder, with the model in `model/`.

    Raises:
        RunFolderError: the folder holds another run or is in use, or the disk is full: what was written stands.
        ModelError, CorpusError, OracleError, GuidanceError, RecipeError, DownloadError: as `check_recipe`.
    """
    folder = recipe.output_dir
    check_folder(recipe, resume)
    if resume and finished(folder) is not None:
        return folder
    load = cache(lambda: load_policy(recipe.model, recipe.seed))
    prepared = prepare(recipe, load, resume=resume)
    with run_lock(folder):
        check_folder(recipe, resume)  # again: another process may have begun here meanwhile
        begin(recipe)
        _train(recipe, prepared, load(), newest_whole(folder) if resume else None, progress or silent)
    return folder


def _train(recipe: Recipe, prepared: Prepared, policy: Policy, checkpoint: Path | None, progress: Progress) -> None:
    folder = recipe.output_dir
    told = StepsTold(STAGES[recipe.method], folder, progress)
    trainer = _trainer(recipe, prepared, policy, told, progress)
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = told.seconds
        _save_model(trainer, folder / MODEL)
    except (OSError, RuntimeError, SafetensorError) as error:
        if _disk_is_full(error):
            raise cannot_write(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise
    write_json_atomic(folder / "log_history.json", _without_nan(trainer.state.log_history))
    write_json_atomic(folder / FINISHED, {"train_seconds": seconds, "steps": trainer.state.global_step})


def _trainer(recipe: Recipe, prepared: Prepared, policy: Policy, told: StepsTold, progress: Progress) -> Trainer:
    folder, inputs = recipe.output_dir, prepared.inputs
    if recipe.method == "constrained":
        trainer = ConstrainedTrainer(
            model=policy,
            args=constrained_arguments(recipe, folder),
            train_dataset=inputs.corpus.train,
            constraints=prepared.constraints,
            prompts=inputs.prompts,
            callbacks=[told],
        )
        trainer.progress = EventsTold(folder, progress)
        return trainer
    return EndsAtLastStep(
        model=policy.model,
        args=plain_arguments(recipe, folder),
        train_dataset=inputs.rows,
        data_collator=PlainCollator(ConstrainedCollator(policy.tokenizer)),
        processing_class=policy.tokenizer,
        callbacks=[told],
    )


class PlainCollator:
    """The batches of constrained training with what plain fine-tuning takes of them: the same rows, the same labels."""

    def __init__(self, collate: ConstrainedCollator) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._collate(rows)
        return {name: batch[name] for name in _LEARNED_FROM}


def _save_model(trainer: Trainer, folder: Path) -> None:
    """Write the model (an adapter alone, where there is one) with its tokenizer, whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.save_model(str(partial))
    (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle that a model needs no part of
    shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.rename(folder)
    except OSError as error:
        raise RunFolderError(f"{partial} cannot be renamed to {folder.name}: {error.strerror or error}") from error


def _disk_is_full(error: BaseException) -> bool:
    """torch and safetensors say it in their own words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    said = str(error)
    return any(
        words in said for words in ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed")
    )


def _without_nan(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON has no NaN: such a number becomes null."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}
        for line in history
    ]
