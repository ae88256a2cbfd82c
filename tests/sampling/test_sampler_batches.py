"""What is drawn together is only a matter of speed: the outputs and the boundaries of the batches stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import CorpusError
from adhere.records import Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler, draw_all

PROMPTS = [
    Prompt(0, "the cat", "pets"),
    Prompt(4, "a", "pets"),
    Prompt(9, "", "none"),
    Prompt(2, "oh no, a fox", "wild"),
    Prompt(3, "hm", "x"),
]
Draw = Callable[..., list[Sample]]


def _by_item(samples: Sequence[Sample]) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(sample.prompt_index, sample.replicate): sample.output_ids for sample in samples}


# ---- each by itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"temperature": 1.2, "top_k": 9}], ids=str)
def test_a_sample_does_not_depend_on_what_is_drawn_with_it(draw: Draw, how: dict[str, Any]) -> None:
    together = _by_item(draw(PROMPTS, each=2, batch_size=64, **how))
    assert len(set(together.values())) == 10
    assert _by_item(draw(PROMPTS, each=2, batch_size=1, **how)) == together
    assert _by_item(draw(PROMPTS, each=2, batch_size=3, **how)) == together
    assert _by_item(draw(PROMPTS[::-1], each=2, batch_size=4, **how)) == together
    for prompt in PROMPTS:
        assert _by_item(draw([prompt], each=2, **how)).items() <= together.items()
    assert _by_item(draw(PROMPTS, each=3, batch_size=4, **how)).items() >= together.items()


def test_samples_depend_on_the_seed_the_prompts_index_and_the_replicate(draw: Draw) -> None:
    assert draw(PROMPTS, seed=5) == draw(PROMPTS, seed=5)
    torch.manual_seed(77)
    assert draw(PROMPTS, seed=5) == draw(PROMPTS, seed=5)
    same_text = [Prompt(index, "the cat") for index in range(6)]
    outputs = [s.output_ids for seed in (5, 6) for s in draw(same_text, seed=seed, each=2)]
    assert len(set(outputs)) == 24


def test_the_global_random_state_is_left_alone(draw: Draw) -> None:
    before = torch.get_rng_state()
    draw(PROMPTS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("pad", [None, "<eos>", "!"])
def test_whatever_pads_a_batch_its_outputs_are_the_same(
    draw: Draw, tiny_tokenizer: PreTrainedTokenizerFast, pad: str | None
) -> None:
    """Without a pad token, with EOS for one, with a token that the model says itself."""
    expected = _by_item(draw(PROMPTS, each=3, batch_size=1))
    tiny_tokenizer.pad_token = pad
    assert _by_item(draw(PROMPTS, each=3, batch_size=64)) == expected
    assert {len(ids) for ids in expected.values()} >= {12} and min(map(len, expected.values())) < 12


# ---- plans --------------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_same_for_the_same_prompts_in_any_order(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """A stopped run goes on at a batch's boundary, so the boundaries must not move."""
    sampler = TransformersSampler(tiny_model, tiny_tokenizer, SamplingConfig(batch_size=4, max_new_tokens=3))
    plan = sampler.plan(PROMPTS, 3)
    assert sampler.plan(PROMPTS, 3) == plan == sampler.plan(PROMPTS[::-1], 3)
    assert [batch.number for batch in plan] == [0, 1, 2, 3] and [len(batch.items) for batch in plan] == [4, 4, 4, 3]
    lengths = [len(ids) for batch in plan for ids in batch.prompt_ids]
    assert lengths == sorted(lengths)
    whole = list(draw_all(sampler, PROMPTS, seed=1, samples_per_prompt=3))
    assert [sample for batch in plan[2:] for sample in sampler.draw(batch, 1)] == whole[8:]


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_drawn(
    draw: Draw, tiny_model: LlamaForCausalLM
) -> None:
    calls: list[object] = []
    tiny_model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert len(draw([Prompt(0, "a" * 52)])) == 1 and calls
    calls.clear()
    with pytest.raises(
        CorpusError, match=r"prompt 7 \('a{40}'…\) has 53 tokens; with sampling\.max_new_tokens = 12 it .* 64"
    ):
        draw([*PROMPTS, Prompt(7, "a" * 53)])
    assert not calls


def test_progress_counts_outputs_up_to_all_of_them(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    told: list[tuple[int, int, float]] = []
    sampler = TransformersSampler(tiny_model, tiny_tokenizer, SamplingConfig(batch_size=4, max_new_tokens=2))
    list(draw_all(sampler, PROMPTS, seed=0, samples_per_prompt=2, progress=lambda *what: told.append(what)))
    assert [what[:2] for what in told] == [(4, 10), (8, 10), (10, 10)]
    assert all(what[2] > 0 for what in told)
