"""A Trainer that is over when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer


class EndsAtLastStep(Trainer):
    """Takes no step beyond the last when it is resumed from the checkpoint of the last one.

    transformers looks at `max_steps` after a step only, so it would take one more. Such a checkpoint is what a run has that
    was killed before its model was saved.
    """

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of the next optimiser step; none when all steps are done."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)
