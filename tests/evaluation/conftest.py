"""A policy over bytes, which can say Yes and No; and a referee that answers by a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from adhere.evaluation.subject import Subject


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte; no pad token, no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{c: i for i, c in enumerate(alphabet)}, "<eos>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="session")
def byte_model() -> LlamaForCausalLM:
    """A Llama of one layer over these bytes, with 512 positions."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.5, bos_token_id=None, eos_token_id=256,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def subject(byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> Subject:
    from adhere.evaluation.subject import Subject

    return Subject("ours", byte_model, byte_tokenizer)


class RuleReferee:
    """Answers with what a function makes of each question, and remembers the questions."""

    def __init__(self, rule: Callable[[str], str | None], name: str = "rule") -> None:
        self.rule, self.name = rule, name
        self.notes: list[str] = []
        self.questions: list[str] = []

    def answers(
        self, questions: Sequence[str], options: Sequence[str], told: Callable[[int, int], None] | None = None
    ) -> list[str | None]:
        self.questions += questions
        return [self.rule(question) for question in questions]


@pytest.fixture
def rule_referee() -> type[RuleReferee]:
    return RuleReferee
