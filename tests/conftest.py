"""What several tests share: one thread, examples that are the same every time, and a Llama of a few thousand weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Read by torch when it is first imported, which is later than this: sums are taken in one order, workers do not compete.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

settings.register_profile("adhere", deadline=None, derandomize=True)
settings.load_profile("adhere")

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,!?"


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """31 characters and EOS (id 31), each a token; no BOS, no pad token."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(CHARACTERS)} | {"<eos>": len(CHARACTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """A Llama over the tokens of `tiny_tokenizer`: width 16, 2 layers, 64 positions, probabilities far from uniform."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3, bos_token_id=None,
        eos_token_id=len(CHARACTERS), pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny_policy_folder(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """Both, saved as transformers saves them."""
    folder = tmp_path / "tiny-policy"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
