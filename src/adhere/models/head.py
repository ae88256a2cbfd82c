"""The head of a model apart from the rest of it: what it reads, and what becomes of the product with its weight.

B batch · T time · V vocabulary · D width
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from adhere.functional.head import Head, finish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel
    from transformers import PreTrainedModel

_CAPS = ("final_logit_softcapping",)
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""How configurations call what is done to logits after the head; some divide by theirs, some multiply."""

_TRIED = 4
"""Tokens on which it is tried what a model does with its logits."""


class HeadInput(NamedTuple):
    """What the head of a model has read."""

    hidden_BTD: Tensor
    head: Head
    dtype: torch.dtype  # in which the head computes: autocast may have chosen another than that of its weight
    triton: bool = False  # whether a Triton kernel takes torch's place between its products


def head_input(
    model: nn.Module, policy: PreTrainedModel, head: Head, input_ids_BT: Tensor, attention_mask_BT: Tensor
) -> HeadInput:
    """A forward pass of the whole model, with everything that is wrapped round it, in which the head gets nothing to do.

    Args:
        model: what is called.
        policy: the model inside it.
        head: of the policy, from `find_head`.
    """
    layer = output_layer(policy)
    assert layer is not None
    read: list[Tensor] = []
    dtypes: list[torch.dtype] = []

    def keep(_: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        read.append(args[0])
        return (args[0][:, :0], *args[1:])

    hooks = [
        layer.register_forward_pre_hook(keep),
        layer.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype)),
    ]
    try:
        model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return HeadInput(read[0], head, dtypes[0])


def output_layer(policy: PreTrainedModel) -> nn.Module | None:
    """The layer that makes the logits, an adapter on the model or not."""
    whole = cast("PeftModel", policy).get_base_model() if hasattr(policy, "get_base_model") else policy
    layer: nn.Module | None = cast("PreTrainedModel", whole).get_output_embeddings()
    return layer


@torch.no_grad()
def find_head(policy: PreTrainedModel) -> Head | None:
    """The head, if all that makes the model's logits of what the head reads is a product, a scale and a soft-cap.

    Found by trying: on a few tokens the model's own logits must come out. A head with a bias, with an adapter on it or in
    integers is not taken, nor one whose logits are changed in another way.
    """
    layer = output_layer(policy)
    if type(layer) is not nn.Linear or layer.bias is not None or layer.weight.ndim != 2:
        return None
    tokens_BT = torch.arange(min(_TRIED, len(layer.weight)), device=policy.device)[None]
    mask_BT = torch.ones_like(tokens_BT)
    with _still(policy):
        try:
            hidden_BTD = head_input(policy, policy, Head(layer.weight), tokens_BT, mask_BT).hidden_BTD
            logits_BTV = policy(input_ids=tokens_BT, attention_mask=mask_BT, use_cache=False).logits.float()
        except (IndexError, RuntimeError, TypeError, ValueError):  # a head that does not take what is cut short
            return None
        product_BTV = layer(hidden_BTD).float()
    close = 1e-4 if layer.weight.dtype in (torch.float32, torch.float64) else 2e-2
    for candidate in _candidates(policy, layer.weight):
        x_BTV, _ = finish(product_BTV.clone(), candidate)
        if x_BTV.shape == logits_BTV.shape and torch.allclose(x_BTV, logits_BTV, rtol=close, atol=close):
            return candidate
    return None


def _candidates(policy: PreTrainedModel, weight_VD: Tensor) -> Iterator[Head]:
    config: Any = policy.config.get_text_config()
    scales = [1.0]
    for value in (getattr(config, name, None) for name in _SCALES):
        if isinstance(value, int | float) and value not in (0, 1):
            scales += [float(value), 1.0 / value]
    caps = [
        value for value in (getattr(config, name, None) for name in _CAPS) if isinstance(value, int | float) and value
    ]
    for scale in scales:
        for cap in [*caps, None]:
            yield Head(weight_VD, scale, cap)


@contextmanager
def _still(policy: PreTrainedModel) -> Iterator[None]:
    """Eval mode, so that dropout draws nothing."""
    training = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(training)
