"""Logits at a few positions, as the model itself computes them.

B batch · T time · V vocabulary · N positions
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from adhere.models.frozen import next_token_logits

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def logits_at(
    model: PreTrainedModel, input_ids_BT: Tensor, attention_mask_BT: Tensor, row_N: Tensor, position_N: Tensor
) -> Tensor:
    """Logits [N, V] at these positions; the head is not computed elsewhere.

    The positions are picked where the head reads them, so that what a model does to its logits afterwards (soft-capping,
    a scale) is done as always.
    """
    whole = cast("PeftModel", model).get_base_model() if hasattr(model, "get_base_model") else model
    head = cast("PreTrainedModel", whole).get_output_embeddings()
    if head is None:
        return next_token_logits(model, input_ids_BT, attention_mask_BT)[row_N, position_N]

    def pick(_: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][row_N, position_N][None], *args[1:])

    hook = head.register_forward_pre_hook(pick)
    try:
        return next_token_logits(model, input_ids_BT, attention_mask_BT)[0]
    finally:
        hook.remove()
