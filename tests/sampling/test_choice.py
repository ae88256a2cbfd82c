"""A token is chosen with exactly the probability it has, and both of its probabilities are kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessor

from adhere.sampling.choice import InverseCdfChoice
from adhere.sampling.sampler import SamplingConfig

V = 8
LARGEST = 1.0 - 2.0**-53  # no uniform comes nearer to 1
NOTHING_READ = torch.zeros(1, 1, dtype=torch.long)
SETTINGS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 3},
    {"top_k": 1},
    {"top_k": 100},
    {"top_p": 0.8},
    {"top_p": 0.05},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
]


def _logits(seed: int = 0, rows: int = 1) -> Tensor:
    return 1.5 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def _by_hand(logits_V: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """s: heated, then its top_k likeliest tokens, then the fewest that together have top_p; renormalised. In float64."""
    s_V = (logits_V.double() / temperature).softmax(-1)
    order = s_V.argsort(descending=True).tolist()
    if top_k:
        order = order[:top_k]
    total, kept = sum(s_V[order].tolist()), []
    while order and sum(s_V[kept].tolist()) / total < top_p:
        kept.append(order.pop(0))
    cut_V = torch.zeros(V, dtype=torch.float64)
    cut_V[kept] = s_V[kept]
    return cut_V / cut_V.sum()


def _choose(logits_BV: Tensor, uniforms_B: Tensor, settings: dict[str, float], guide: LogitsProcessor | None = None):
    """The chosen tokens, and their log probabilities under p and under s."""
    config = SamplingConfig.model_validate(settings)
    choice = InverseCdfChoice(uniforms_B[:, None], config, guide)
    scores_BV = choice(NOTHING_READ.expand(len(logits_BV), 1), logits_BV)
    log_p_BT, log_s_BT = choice.log_probabilities()
    assert ((scores_BV == 0).sum(-1) == 1).all() and scores_BV.isneginf().sum() == scores_BV.numel() - len(scores_BV)
    return scores_BV.argmax(-1), log_p_BT[:, 0], log_s_BT[:, 0]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_token_owns_its_probability_of_the_uniforms(settings: dict[str, float]) -> None:
    """10,000 uniforms at equal distances: a token must get its share of them to within one at either end."""
    count = 10_000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    token_B, _, _ = _choose(_logits().expand(count, V), uniforms, settings)
    share_V = torch.bincount(token_B, minlength=V) / count
    s_V = _by_hand(_logits()[0], **settings)
    assert ((share_V - s_V).abs() <= 2 / count).all()
    assert not share_V[s_V == 0].any()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_both_probabilities_are_those_of_the_formulas(settings: dict[str, float]) -> None:
    logits_V = _logits(seed=1)[0]
    token_B, log_p_B, log_s_B = _choose(logits_V.expand(50, V), torch.linspace(0, LARGEST, 50).double(), settings)
    torch.testing.assert_close(log_p_B, logits_V.double().log_softmax(-1)[token_B], rtol=0, atol=1e-6)
    torch.testing.assert_close(log_s_B, _by_hand(logits_V, **settings).log()[token_B], rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"top_k": 100}, {"top_p": 1.0, "temperature": 1.0, "top_k": 0}], ids=str)
def test_what_truncates_nothing_leaves_p_as_it_is(settings: dict[str, float]) -> None:
    _, log_p_B, log_s_B = _choose(_logits(rows=9), torch.linspace(0, 0.9, 9).double(), settings)
    torch.testing.assert_close(log_p_B, log_s_B, rtol=0, atol=1e-6 if settings.get("top_k") else 0)


@given(seed=st.integers(0, 10_000), uniform=st.sampled_from([0.0, 2.0**-53, 0.5, LARGEST]), spread=st.floats(0.1, 200))
def test_a_token_without_probability_is_never_chosen_not_even_at_the_ends(
    seed: int, uniform: float, spread: float
) -> None:
    logits = spread * _logits(seed)
    logits[0, [0, 3, V - 1]] = -torch.inf
    token_B, log_p_B, _ = _choose(logits, torch.tensor([uniform], dtype=torch.float64), {})
    assert token_B.item() not in (0, 3, V - 1)
    assert log_p_B.isfinite().all()


def test_each_row_follows_its_own_uniforms_step_by_step() -> None:
    logits_BV = _logits(seed=2, rows=4)
    uniforms_BT = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    choice = InverseCdfChoice(uniforms_BT, SamplingConfig())
    together = [choice(NOTHING_READ.expand(4, 1), logits_BV).argmax(-1).tolist() for _ in range(3)]
    for row in range(4):
        alone = InverseCdfChoice(uniforms_BT[[row]], SamplingConfig())
        assert [alone(NOTHING_READ, logits_BV[[row]]).argmax(-1).item() for _ in range(3)] == [
            step[row] for step in together
        ]
    assert len({tuple(step) for step in together}) > 1
    assert all(part.shape == (4, 3) and part.dtype == torch.float64 for part in choice.log_probabilities())


class _Ban(LogitsProcessor):
    """Stands for a guide: halves every score and bans token 2."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        halved = scores / 2
        halved[:, 2] = -torch.inf
        return halved  # type: ignore[return-value]


def test_a_guide_changes_what_is_chosen_but_not_what_the_model_says_of_it() -> None:
    logits_V = _logits(seed=3)[0]
    logits_V[2] = 5.0
    settings = {"temperature": 0.8, "top_k": 4}
    uniforms_B = torch.linspace(0, LARGEST, 64, dtype=torch.float64)
    token_B, log_p_B, log_s_B = _choose(logits_V.expand(64, V), uniforms_B, settings, _Ban())
    guided_V = torch.where(torch.arange(V) == 2, -torch.inf, logits_V.double().log_softmax(-1) / 2)
    assert 2 not in token_B
    torch.testing.assert_close(log_p_B, logits_V.double().log_softmax(-1)[token_B], rtol=0, atol=1e-6)
    torch.testing.assert_close(log_s_B, _by_hand(guided_V, **settings).log()[token_B], rtol=0, atol=1e-6)


def test_scores_in_bfloat16_are_summed_in_more_digits() -> None:
    logits_V = _logits(seed=4)[0].bfloat16()
    token_B, log_p_B, log_s_B = _choose(logits_V.expand(20, V), torch.linspace(0, LARGEST, 20).double(), {})
    torch.testing.assert_close(log_p_B, logits_V.double().log_softmax(-1)[token_B], rtol=0, atol=1e-6)
    assert torch.equal(log_p_B, log_s_B)


def test_the_rarest_tokens_are_told_apart() -> None:
    """10,000 tokens of 3e-9 each, behind a likely one: near 1, float32 would have a step for one in twenty of them."""
    rare = 3e-9
    logits_V = torch.full((10_001,), math.log(rare))
    logits_V[0] = 0.0
    uniforms_B = 1.0 - rare * (torch.arange(100, dtype=torch.float64) + 0.5)
    token_B, _, _ = _choose(logits_V.expand(100, -1), uniforms_B, {})
    assert token_B.tolist() == list(range(10_000, 9_900, -1))
