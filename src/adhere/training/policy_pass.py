"""The policy's forward pass over a micro-batch: as far as its head, where the fused head does the rest, or to its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from adhere.functional.head import Head
from adhere.models.frozen import hidden_states
from adhere.models.head import HeadInput, find_head, head_input
from adhere.training.loss import Batch

if TYPE_CHECKING:
    from adhere.training.trainer import ConstrainedTrainer

_WHOLE_WEIGHTS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where every process has the head's whole weight."""


class PolicyPass:
    """Chooses between the two by the model and by what the loss needs.

    Args:
        trainer: whose policy is read.
    """

    def __init__(self, trainer: ConstrainedTrainer) -> None:
        self._trainer = trainer
        self._head: Head | None = None
        self._sought = False
        self._reference_head: Head | None = None

    def __call__(self, model: torch.nn.Module, batch: Batch, *, whole: bool) -> tuple[Tensor | HeadInput, Any]:
        """What the loss reads of the policy, and the model's outputs where they are whole.

        Args:
            model: the policy with what is wrapped round it.
            whole: whether the logits of all positions are needed.
        """
        head = None if whole else self.head()
        if head is not None:
            policy = self._trainer.policy()
            read = head_input(model, policy, head, batch.input_ids_BT, batch.attention_mask_BT)
            return read._replace(triton=self._trainer.config.fused_head == "triton"), None
        outputs = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)
        return outputs.logits, outputs

    def head(self) -> Head | None:
        """The head, where the fused one can take its place.

        Not in float16, where it would have to know the loss scale; not compiled, since hooks are not; not where the weights
        are divided among processes, nor where one process runs copies of the model on several GPUs.
        """
        if not self._sought:
            config, accelerator = self._trainer.config, self._trainer.accelerator
            one = accelerator.distributed_type in _WHOLE_WEIGHTS and config.n_gpu <= 1
            if one and not config.fp16 and not config.torch_compile:
                self._head = find_head(self._trainer.policy())
            if self._head is not None and self._head.weight_VD.dtype == torch.float16:
                self._head = None
            self._sought = True
            self._reference_head = None if self._head is None else self._head_of_reference()
        return self._head

    def reference_head(self) -> Head | None:
        """The reference's head, if both are there and its logits follow from NADO's features."""
        return None if self.head() is None else self._reference_head

    def _head_of_reference(self) -> Head | None:
        with self._trainer.reference.lent() as model:
            head = find_head(model)
            if head is None:
                return None
            tokens_BT = torch.arange(min(4, len(head.weight_VD)), device=model.device)[None]
            mask_BT = torch.ones_like(tokens_BT)
            read_BTD = head_input(model, model, head, tokens_BT, mask_BT).hidden_BTD
            same = torch.equal(read_BTD, hidden_states(model, tokens_BT, mask_BT))
        return head if same else None
