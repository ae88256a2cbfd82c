"""Rows that have ended leave the batch: what the others write stays the same, and less is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM

from adhere.sampling import decoding
from adhere.sampling.choice import InverseCdfChoice
from adhere.sampling.decoding import decode
from adhere.sampling.sampler import SamplingConfig

EOS, ROWS, LONGEST = 31, 40, 16


def _decoded(model: LlamaForCausalLM, leave: bool) -> tuple[list[list[int]], Tensor, list[int]]:
    """Outputs cut after their end, their log probabilities, and how many rows went through each pass."""
    random = torch.Generator().manual_seed(3)
    prompt_BT = torch.randint(0, 30, (ROWS, 4), generator=random)
    mask_BT = torch.ones_like(prompt_BT)
    mask_BT[::3, :2] = 0
    uniforms_BT = torch.rand(ROWS, LONGEST, generator=random, dtype=torch.float64)
    choice, sizes = InverseCdfChoice(uniforms_BT, SamplingConfig()), []
    hook = model.register_forward_pre_hook(
        lambda _, args, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    settings = GenerationConfig(
        max_new_tokens=LONGEST, do_sample=False, pad_token_id=0, eos_token_id=[EOS, 3], use_cache=True
    )
    with torch.inference_mode():
        outputs = decode(model, prompt_BT, mask_BT, settings, choice, leave=leave)
    hook.remove()
    cut = [next((output[: n + 1] for n, token in enumerate(output) if token in (EOS, 3)), output) for output in outputs]
    log_p_BT, _ = choice.log_probabilities()
    return cut, torch.stack([log_p_BT[row, : len(output)].sum() for row, output in enumerate(cut)]), sizes


def test_outputs_and_their_probabilities_do_not_depend_on_who_has_left(tiny_model: LlamaForCausalLM) -> None:
    tiny_model.eval()
    together, alone = _decoded(tiny_model, leave=False), _decoded(tiny_model, leave=True)
    assert alone[0] == together[0]
    assert {len(output) for output in alone[0]} > {1, 2, LONGEST}
    torch.testing.assert_close(alone[1], together[1], atol=1e-5, rtol=1e-5)


def test_finished_rows_are_not_carried_along(tiny_model: LlamaForCausalLM) -> None:
    tiny_model.eval()
    outputs, _, sizes = _decoded(tiny_model, leave=True)
    needed, carried = sum(map(len, outputs)), ROWS * LONGEST
    assert _decoded(tiny_model, leave=False)[2] == [ROWS] * LONGEST
    assert sizes[0] == ROWS and sizes == sorted(sizes, reverse=True) and len(sizes) == LONGEST  # nothing is read twice
    assert needed <= sum(sizes) < needed + 0.35 * (carried - needed)


def test_another_kind_of_cache_is_not_cut(tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows still leave, and the others are read again from their beginning."""
    tiny_model.eval()
    expected = _decoded(tiny_model, leave=True)
    monkeypatch.setattr(decoding, "DynamicLayer", type("Other", (), {}))
    told = _decoded(tiny_model, leave=True)
    assert told[0] == expected[0] and len(set(told[2])) == 2
