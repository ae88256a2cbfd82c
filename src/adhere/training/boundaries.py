"""What happens between steps: a checkpoint where an iteration ends, and in every checkpoint what a resume needs beside it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere.errors import RunFolderError
from adhere.files import whole_file
from adhere.guidance.snapshots import FOLDER as SNAPSHOTS

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
        refreshes, folder = self._trainer.refreshes, self._trainer.run_folder
        if refreshes.in_force is not None and state.is_world_process_zero:
            stands, checkpoint = refreshes.in_force, folder / f"checkpoint-{state.global_step}"
            keep(folder, checkpoint, stands.guidance, anchor=refreshes.iteration, refreshing=stands.refreshing)


def keep(
    run_folder: Path, checkpoint: Path, iteration: int, *, anchor: int | None = None, refreshing: int | None = None
) -> None:
    """Put the files that training goes on with from a checkpoint beside it.

    They are the guidance in force, the samples and labels it was fitted on and the anchor: what the rest of the iteration
    is trained with, and what no later policy could make again; and of a refresh under way the snapshot that it began from
    with what has been made of it so far. They are copied, so that damage to one leaves the other; anchor and snapshot, as
    large as the model, are hard links where that can be.

    Args:
        iteration: that the guidance in force was made in.
        anchor: that training is in; the same without it.
        refreshing: that a refresh is under way for.
    """
    patterns = [*_made_in(iteration), f"anchors/iteration-{iteration if anchor is None else anchor:04d}.safetensors"]
    if refreshing is not None:
        patterns += [*_made_in(refreshing), f"{SNAPSHOTS}/iteration-{refreshing:04d}.safetensors"]
    for pattern in patterns:
        for file in run_folder.glob(pattern):
            target = checkpoint / KEPT / file.relative_to(run_folder)
            if target.exists():
                continue
            with whole_file(target) as part:
                if pattern.startswith(("anchors/", f"{SNAPSHOTS}/")):
                    with suppress(OSError):  # a file system without hard links
                        os.link(file, part)
                if not part.exists():
                    shutil.copyfile(file, part)


def _made_in(iteration: int) -> tuple[str, str, str]:
    name = f"iteration-{iteration:04d}"
    return f"guidance/{name}/*", f"samples/{name}.jsonl", f"labels/{name}.jsonl"


def refuse_another_run(run_folder: Path) -> None:
    """Raises RunFolderError when the folder holds a run that went further than one that begins at its first step."""
    later = [*run_folder.glob("checkpoint-*"), *run_folder.glob("guidance/iteration-*[1-9]")]
    if later:
        raise RunFolderError(
            f"{run_folder} holds a run already ({later[0].relative_to(run_folder)}): go on with it by "
            "train(resume_from_checkpoint=True), or choose another output_dir"
        )


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
