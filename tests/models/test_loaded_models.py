"""Models that a user loaded: with a tokenizer of their own, with an adapter of transformers, quantised, on any device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import build_nado
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import as_policy
from adhere.sampling.choice import float64_device


def test_a_tokenizer_given_with_a_folder_is_the_one_used(
    tiny_policy_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    policy = as_policy(str(tiny_policy_folder), tiny_tokenizer)
    assert policy.tokenizer is tiny_tokenizer
    assert tiny_tokenizer.pad_token_id == tiny_tokenizer.eos_token_id


def test_hidden_states_are_read_of_a_model_with_an_adapter_of_transformers(tiny_model: LlamaForCausalLM) -> None:
    ids_BT = torch.tensor([[7, 4, 11]])
    plain_BTD = hidden_states(tiny_model, ids_BT, torch.ones_like(ids_BT))
    tiny_model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    torch.testing.assert_close(hidden_states(tiny_model, ids_BT, torch.ones_like(ids_BT)), plain_BTD)


def test_a_model_that_is_quantised_already_is_prepared_for_its_adapter(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def prepare(model: LlamaForCausalLM, **settings: Any) -> LlamaForCausalLM:
        told.append(settings)
        return model

    monkeypatch.setattr("peft.prepare_model_for_kbit_training", prepare)
    tiny_model.is_quantized = True
    as_policy(tiny_model, tiny_tokenizer, LoraConfig(r=2, target_modules=["q_proj"]))
    assert told == [{"use_gradient_checkpointing": False}]


def test_a_frozen_copy_of_a_quantised_model_keeps_its_dtypes(tiny_model: LlamaForCausalLM) -> None:
    tiny_model.is_quantized = True
    assert FrozenModel(tiny_model, torch.bfloat16).embeddings_VD.dtype == torch.float32


def test_all_nados_share_the_embeddings_of_the_frozen_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "cpu", Tensor.clone)  # as from a GPU
    embeddings_VD = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    nados = [build_nado(NadoConfig(width=8, heads=2, rank=4), embeddings_VD, seed) for seed in (0, 1)]
    assert {nado.embeddings_VD.data_ptr() for nado in nados} == {embeddings_VD.data_ptr()}


def test_float64_is_computed_where_there_is_such_a_thing() -> None:
    assert [float64_device(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]
