"""Logits at a few positions are the model's own, whatever it does to them after its head."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
)

from adhere.models.logits_at import logits_at
from adhere.models.policy import LoraSection, add_adapter, peft_config

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
ROW_N, POSITION_N = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 3, 1, 4])


def _check(model: PreTrainedModel) -> None:
    tokens_BT = torch.arange(15).view(3, 5)
    mask_BT = torch.ones_like(tokens_BT)
    with torch.no_grad():
        whole_BTV = model.eval()(input_ids=tokens_BT, attention_mask=mask_BT).logits
        chosen_NV = logits_at(model, tokens_BT, mask_BT, ROW_N, POSITION_N)
        torch.testing.assert_close(chosen_NV, whole_BTV[ROW_N, POSITION_N], atol=1e-5, rtol=1e-5)
        assert model(input_ids=tokens_BT).logits.shape == whole_BTV.shape  # nothing is left behind


def test_they_are_those_of_the_whole_pass(tiny_model: LlamaForCausalLM) -> None:
    _check(tiny_model)


def test_also_with_an_adapter(tiny_model: LlamaForCausalLM) -> None:
    _check(add_adapter(tiny_model, peft_config(LoraSection(r=2)), seed=1))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Gemma2ForCausalLM(
            Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5, initializer_range=0.5)
        ),
        lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0, initializer_range=0.5)),
    ],
    ids=["soft-capped", "scaled"],
)
def test_also_where_the_model_bends_its_logits(model: object) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _check(model())  # type: ignore[operator]
