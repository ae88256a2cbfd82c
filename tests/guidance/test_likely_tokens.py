"""A few tokens stand for the whole vocabulary: exactly where it is small, in the mean over the draw where it is not."""

from __future__ import annotations

import pytest
import torch

from adhere.guidance.likely_tokens import likely_tokens


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _log_p(vocabulary: int, spread: float = 2.0, positions: int = 3) -> torch.Tensor:
    return (spread * torch.randn(positions, vocabulary, generator=_random(5))).log_softmax(-1)


def test_a_small_vocabulary_stands_for_itself() -> None:
    log_p_NV = _log_p(8)
    tokens_NK, log_w_NK = likely_tokens(log_p_NV, _random(), count=8)
    assert tokens_NK.tolist() == [list(range(8))] * 3
    assert torch.equal(log_w_NK, log_p_NV)


def test_the_likeliest_have_their_own_probability_and_the_others_share_the_rest() -> None:
    log_p_NV = _log_p(500)
    tokens_NK, log_w_NK = likely_tokens(log_p_NV, _random(), count=16)
    assert tokens_NK.shape == log_w_NK.shape == (3, 16)
    torch.testing.assert_close(log_w_NK.exp().sum(-1), torch.ones(3))
    for tokens, log_w, log_p in zip(tokens_NK, log_w_NK, log_p_NV, strict=True):
        assert set(tokens[:12].tolist()) == set(log_p.topk(12).indices.tolist())
        torch.testing.assert_close(log_w[:12], log_p[tokens[:12]])
        assert not set(tokens[12:].tolist()) & set(tokens[:12].tolist())
        torch.testing.assert_close(
            log_w[12:], (1 - log_p.topk(12).values.exp().sum()).div(4).log().expand(4), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_the_average_over_draws_is_the_sum_over_the_vocabulary(spread: float) -> None:
    log_p_NV = _log_p(300, spread, positions=1)
    f_V = torch.rand(300, generator=_random(1))
    exact = float(log_p_NV.exp() @ f_V)
    log_p_NV, random = log_p_NV.expand(4000, -1), _random(2)
    tokens_NK, log_w_NK = likely_tokens(log_p_NV, random, count=16)
    estimates_N = (log_w_NK.exp() * f_V[tokens_NK]).sum(-1)
    error = float(estimates_N.std()) / 4000**0.5
    assert float(estimates_N.mean()) == pytest.approx(exact, abs=4 * error)
    assert error > 0


def test_a_distribution_on_few_tokens_leaves_nothing_to_draw_and_no_nan() -> None:
    logits_NV = torch.full((1, 200), -torch.inf)
    logits_NV[0, 7] = 0.0
    tokens_NK, log_w_NK = likely_tokens(logits_NV.log_softmax(-1), _random(), count=16)
    assert tokens_NK[0, 0] == 7 and float(log_w_NK.exp().sum()) == 1.0
    assert not log_w_NK.isnan().any() and int(tokens_NK.max()) < 200


def test_the_draw_is_that_of_the_generator() -> None:
    log_p_NV = _log_p(500, 0.1)
    assert torch.equal(likely_tokens(log_p_NV, _random(3))[0], likely_tokens(log_p_NV, _random(3))[0])
    assert not torch.equal(likely_tokens(log_p_NV, _random(3))[0], likely_tokens(log_p_NV, _random(4))[0])
