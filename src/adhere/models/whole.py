"""The policy as one whole model, where its weights are sharded over processes (FSDP2).

Every process holds the model before fine-tuning whole, in inference dtype: NADO reads it, and what the policy is at a
boundary is gathered into a copy of it. So such a copy has to fit where one process computes; gradients, optimiser and the
weights that are trained stay sharded.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from adhere.models.frozen import FrozenModel, fast_dtype, unhooked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")  # activation checkpointing, torch.compile


class WholePolicy:
    """Gathers a sharded policy.

    Args:
        model: the policy before it is sharded, with whole weights.
        device: where this process computes.

    Attributes:
        reference: the model as it is now, held still.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        whole = copy.deepcopy(unhooked(model)).to(device)  # type: ignore[arg-type]
        self.reference = FrozenModel(whole, fast_dtype(device))
        # With an adapter the reference lends this very copy, so the frozen weights are held once.
        self._adapted: PreTrainedModel | None = whole if hasattr(model, "peft_config") else None
        self._at = -1
        self._gathered: PreTrainedModel | None = None

    def at(self, step: int, sharded: PreTrainedModel) -> PreTrainedModel:
        """The policy with the weights it has at a step. All processes call this at the same time.

        Args:
            step: what was gathered for it is not gathered again.
            sharded: the policy.
        """
        if self._gathered is None or self._at != step:
            self._gathered, self._at = None, step  # one copy at a time
            self._gathered = self._gather(sharded)
        return self._gathered

    def let_go(self) -> None:
        """Free what was gathered."""
        self._gathered = None

    @torch.no_grad()
    def _gather(self, sharded: PreTrainedModel) -> PreTrainedModel:
        if self._adapted is not None:
            whole = self._adapted
        else:
            with self.reference.lent() as still:
                whole = copy.deepcopy(still)
        parameters = dict(whole.named_parameters())
        for wrapped, weight in sharded.named_parameters():
            if self._adapted is not None and not weight.requires_grad:
                continue  # never changes
            name = wrapped
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            gathered = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            parameters[name].data.copy_(gathered)
            parameters[name].requires_grad_(weight.requires_grad)
        return whole
