"""Samples of a tiny model in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch import Tensor
from transformers import LlamaForCausalLM, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerFast

from adhere.records import Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler, draw_all

Draw = Callable[..., list[Sample]]


@pytest.fixture
def draw(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Draw:
    """Draws from the tiny model, or from one that is given; its settings may be given too."""

    def draw(
        prompts: Sequence[Prompt],
        seed: int = 0,
        each: int = 1,
        model: PreTrainedModel = tiny_model,
        guide: Callable[[Tensor], LogitsProcessor] | None = None,
        **how: Any,
    ) -> list[Sample]:
        config = SamplingConfig(**{"max_new_tokens": 12} | how)
        sampler = TransformersSampler(model, tiny_tokenizer, config, guide)
        return list(draw_all(sampler, prompts, seed=seed, samples_per_prompt=each))

    return draw
