"""A model held still: the reference, the anchor of an iteration, the model that is sampled from.

B batch · T time · V vocabulary · D width of the model
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adhere.files import whole_file
from adhere.models.policy import is_quantized, snapshot

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def fast_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which inference is fastest here: bfloat16 where the hardware multiplies it, else float32.

    On a CPU that has the instructions bfloat16 is several times faster; on one that emulates it, slower.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32
    return torch.float32


class FrozenModel:
    """The model as it stands now, unchanged by later training.

    With an adapter only the adapter's weights are copied, and `lent` puts them back for the time of a call. Without one
    the whole model is copied, in `dtype`.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
        self._adapter: dict[str, Tensor] | None = None
        if hasattr(model, "peft_config"):
            self._model = model
            self._adapter = snapshot(model)
        else:
            self._model = _in_dtype(copy.deepcopy(unhooked(model)), dtype or model.dtype)
            self._model.eval()
            self._model.requires_grad_(False)

    @property
    def embeddings_VD(self) -> Tensor:
        """The token embeddings, shared with the frozen model."""
        return self._model.get_input_embeddings().get_parameter("weight").detach()

    def digest(self) -> str:
        """A short name for the weights, from the first few of each: the same in bfloat16 as in float32, which the device
        decides, and wherever the model lies.
        """
        digest = hashlib.sha256()
        with self.lent() as model:
            for name, weight in model.named_parameters():
                first = weight.detach().flatten()[:64].to(torch.bfloat16).float().cpu()
                digest.update(name.encode() + first.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, file: Path) -> None:
        """Write the weights that are its own (the adapter's, where there is one), whole or not at all."""
        with whole_file(file) as part:
            save_file({name: weight.contiguous() for name, weight in self._weights().items()}, part)

    def load(self, file: Path) -> None:
        """Take up weights that `save` wrote."""
        weights = self._weights()
        for name, saved in load_file(file).items():
            weights[name].copy_(saved)

    def _weights(self) -> dict[str, Tensor]:
        if self._adapter is not None:
            return self._adapter
        return {name: weight.data for name, weight in self._model.named_parameters()}

    @contextmanager
    def lent(self) -> Iterator[PreTrainedModel]:
        """The frozen model, in eval mode and without gradients, for the time of the block."""
        with torch.no_grad():
            if self._adapter is None:
                yield self._model
                return
            live, training = snapshot(self._model), self._model.training
            try:
                _write(self._model, self._adapter)
                yield self._model.eval()
            finally:
                _write(self._model, live)
                self._model.train(training)


def unhooked(model: PreTrainedModel) -> PreTrainedModel:
    """The model without the wrapper that accelerate puts round `forward` for mixed precision.

    The wrapper lives in the instance's `__dict__` and a copy would go on calling the original.
    """
    if "forward" in model.__dict__:
        bare = copy.copy(model)
        bare.__dict__ = {
            key: value for key, value in model.__dict__.items() if key not in ("forward", "_original_forward")
        }
        return bare
    return model


def hidden_states(model: PreTrainedModel, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
    """What the model's head reads: the last hidden states [B, T, D], without computing [B, T, V] logits."""
    whole = cast("PeftModel", model).get_base_model() if hasattr(model, "get_base_model") else model
    decoder = cast("nn.Module", whole.base_model)
    output = decoder(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False)
    hidden_BTD: Tensor = output.last_hidden_state
    return hidden_BTD


def next_token_logits(model: PreTrainedModel, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of the model."""
    logits_BTV: Tensor = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False).logits
    return logits_BTV


def frozen_pass(
    frozen: FrozenModel, input_ids_BT: Tensor, attention_mask_BT: Tensor, features: bool, *, logits: bool
) -> tuple[Tensor | None, Tensor | None]:
    """One pass of a frozen model for its hidden states [B, T, D], its logits [B, T, V], or both."""
    with frozen.lent() as model:
        if not logits:
            return hidden_states(model, input_ids_BT, attention_mask_BT), None
        output = model(
            input_ids=input_ids_BT, attention_mask=attention_mask_BT, output_hidden_states=features, use_cache=False
        )
        return output.hidden_states[-1] if features else None, output.logits


def _write(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        parameters[name].data.copy_(weight)


def _in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model in this dtype; its rotary frequencies stay as they are, as when it is loaded in this dtype.

    Rounded to bfloat16 they would be up to 0.4 % off, and with them every angle. SmolLM2-135M was then 0.0015 nats a token
    from its float32 self after 1,300 tokens, against 0.0011 without the rounding (in the first hundred: no difference).
    """
    if is_quantized(model):
        return model  # integers, and scales that belong to them
    exact = {name: buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    model.to(dtype)  # type: ignore[arg-type]
    for name, buffer in exact.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, buffer)
    return model
