"""What happens between steps: a checkpoint where an iteration ends, and in every checkpoint what a resume needs beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere.files import whole_file

if TYPE_CHECKING:
    from adhere.training.trainer import ConstrainedTrainer

KEPT = "adhere"
"""Folder in a checkpoint, laid out as the run folder."""


class Boundaries(TrainerCallback):
    """Asks for a checkpoint where an iteration ends, so that no refresh begins before the training so far is on disk."""

    def __init__(self, trainer: ConstrainedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._trainer.begin()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if state.global_step in self._trainer.starts():
            control.should_save = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._trainer.adaptation.end()
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        guidance, folder = self._trainer.guidance, self._trainer.run_folder
        if guidance is not None and state.is_world_process_zero:
            keep(folder, folder / f"checkpoint-{state.global_step}", guidance.version.iteration)


def keep(run_folder: Path, checkpoint: Path, iteration: int) -> None:
    """Put the files of the iteration that a checkpoint stands in (or ends) beside it, as hard links where that can be.

    They are the guidance in force, the samples and labels it was fitted on and the anchor: what the rest of the iteration
    is trained with, and what no later policy could make again.
    """
    name = f"iteration-{iteration:04d}"
    patterns = (f"guidance/{name}/*", f"samples/{name}.jsonl", f"labels/{name}.jsonl", f"anchors/{name}.safetensors")
    for pattern in patterns:
        for file in run_folder.glob(pattern):
            target = checkpoint / KEPT / file.relative_to(run_folder)
            if target.exists():
                continue
            with whole_file(target) as part:
                try:
                    os.link(file, part)
                except OSError:  # a file system without hard links
                    shutil.copyfile(file, part)


def restore(run_folder: Path, checkpoint: Path) -> None:
    """Copy to the run folder what `keep` put into a checkpoint and the run folder lacks.

    So a checkpoint can be taken elsewhere and resumed from there.
    """
    kept = checkpoint / KEPT
    # What tells that guidance is whole comes last.
    for file in sorted(kept.rglob("*"), key=lambda path: (path.name == "guidance.json", path)):
        target = run_folder / file.relative_to(kept)
        if file.is_file() and not target.exists():
            with whole_file(target) as part:
                shutil.copyfile(file, part)
