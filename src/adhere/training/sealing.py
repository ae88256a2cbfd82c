"""Checkpoints that can be trusted after a power loss: forced to the disk, with the digest of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere import ranks
from adhere.digests import seal


class SealsCheckpoints(TrainerCallback):
    """Seals a checkpoint when all of it has been written (`digests.seal`).

    The one before it stays until then: transformers keeps `save_total_limit` of them, here at least 2.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        ranks.on_each(lambda: None)  # every process has written its own files
        ranks.on_first(lambda: seal(folder) if folder.is_dir() else None)
