"""The models of a QLoRA run are those that were trained: quantised, the adapter beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from adhere.models.policy import ModelConfig, Policy
from adhere.recipe.schema import Recipe
from adhere.recipe.trained import load_base, with_adapter


def _policy(folder: Path) -> Policy:
    return Policy(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def test_the_model_before_training_is_quantised_as_in_training(
    make_recipe: Callable[..., Recipe], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ModelConfig] = []

    def load(config: ModelConfig) -> Policy:
        asked.append(config)
        return _policy(tiny_model)

    monkeypatch.setattr("adhere.recipe.trained.load_policy", load)
    load_base(make_recipe(model={"lora": {"r": 2}, "quantization": "4bit"}))
    assert asked[0].quantization == "4bit" and asked[0].lora is None


@pytest.mark.parametrize("quantised", [True, False])
def test_an_adapter_is_merged_unless_the_weights_are_quantised(
    tiny_model: Path, tmp_path: Path, quantised: bool
) -> None:
    trained = get_peft_model(_policy(tiny_model).model, LoraConfig(r=2, task_type="CAUSAL_LM"))
    for name, weight in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    trained.save_pretrained(str(tmp_path / "adapter"))
    base = _policy(tiny_model)
    base.model.is_quantized = quantised
    loaded = with_adapter(base, tmp_path / "adapter").model
    assert isinstance(loaded, PeftModel) == quantised and not loaded.training
    ids_BT = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids_BT).logits, trained.eval()(ids_BT).logits)
