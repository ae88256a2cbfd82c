from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPTJConfig, GraniteConfig, LlamaForCausalLM

from adhere.functional.head import Head, finish
from adhere.models.head import find_head, head_input

SMALL: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
IDS = torch.tensor([[3, 1, 4, 1, 5]])


def _model(config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("config", "scale", "cap"),
    [
        (CohereConfig(**SMALL, logit_scale=0.25), 0.25, None),
        (GraniteConfig(**SMALL, logits_scaling=8.0), 0.125, None),
        (Gemma2Config(**SMALL, final_logit_softcapping=0.3), 1.0, 0.3),
    ],
    ids=["cohere", "granite", "gemma2"],
)
def test_a_scale_and_a_soft_cap_are_found_by_trying(config: Any, scale: float, cap: float | None) -> None:
    model = _model(config)
    head = find_head(model)
    assert head is not None and (head.scale, head.cap) == (scale, cap)
    assert head.weight_VD is model.get_output_embeddings().weight
    read = head_input(model, model, head, IDS, torch.ones_like(IDS))
    found, _ = finish((read.hidden_BTD @ head.weight_VD.T).detach(), head)
    torch.testing.assert_close(found, model(IDS).logits.detach(), atol=1e-5, rtol=1e-5)


def test_what_the_head_reads_comes_with_its_gradient_and_the_dtype_it_computes_in(tiny_model: LlamaForCausalLM) -> None:
    head = find_head(tiny_model)
    assert head == Head(tiny_model.lm_head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        read = head_input(tiny_model, tiny_model, head, IDS, torch.ones_like(IDS))
    assert read.dtype == torch.bfloat16 and read.hidden_BTD.shape == (1, 5, 16) and read.hidden_BTD.requires_grad
    assert tiny_model(IDS).logits.shape == (1, 5, 32)  # no hook has stayed


def test_an_adapter_on_the_rest_of_the_model_changes_nothing(tiny_model: LlamaForCausalLM) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    head = find_head(adapted)  # type: ignore[arg-type]
    assert head is not None and not head.weight_VD.requires_grad


def test_a_head_that_is_more_than_a_product_is_not_taken(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    biased = _model(GPTJConfig(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, rotary_dim=4))
    assert find_head(biased) is None
    forward = LlamaForCausalLM.forward

    def shifted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        output = forward(self, *arguments, **keywords)
        output.logits = output.logits + 0.1 * output.logits.square()
        return output

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "forward", shifted)
        assert find_head(tiny_model) is None
    assert find_head(tiny_model) is not None
    adapted = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    assert find_head(adapted) is None  # type: ignore[arg-type]


def test_trying_leaves_training_mode_and_random_numbers_as_they_were(tiny_model: LlamaForCausalLM) -> None:
    tiny_model.train()
    before = torch.get_rng_state()
    assert find_head(tiny_model) is not None
    assert tiny_model.training and torch.equal(torch.get_rng_state(), before)
