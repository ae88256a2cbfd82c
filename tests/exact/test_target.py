"""q* where every sequence can be counted (method.md §2, §8)."""

import pytest
import torch

from adhere.functional.nado import forward_consistency
from adhere.functional.target import log_q_star, log_tilt

WORLDS = [(4, 3, 0), (5, 4, 1), (8, 5, 2)]
TARGETS = [0.05, 0.6, 0.9, 0.999, 1.0]


def tilted(w, logits_NV, score_M, target):
    """log q*(v | node), log W of every prefix, exact R of every prefix."""
    r_P = w.satisfaction(logits_NV.log_softmax(-1), score_M)
    log_w_P = log_tilt(r_P.log().unsqueeze(0), r_P[:1], target)[0]
    return log_q_star(logits_NV, log_w_P[w.children_NV]), log_w_P, r_P


@pytest.fixture(params=WORLDS, ids=str)
def w(request, world):
    return world(*request.param)


@pytest.fixture(params=["hard", "soft", "banned token"])
def score_M(request, w):
    oracles = {"hard": w.hard_oracle, "soft": w.soft_oracle, "banned token": w.banned_token_oracle}
    return oracles[request.param]()


def test_the_world_is_complete(w):
    logits = w.policy()
    reach = w.reach(logits.log_softmax(-1)).exp()
    assert (
        len(w.leaves)
        == len(set(w.leaves))
        == sum((w.vocabulary - 1) ** d for d in range(w.length)) + (w.vocabulary - 1) ** (w.length)
    )
    assert reach[len(w.nodes) :].sum().item() == pytest.approx(1.0, abs=1e-12)
    longest = w.leaves.index((0,) * w.length)
    by_hand = sum(logits.log_softmax(-1)[w.nodes.index((0,) * d), 0].item() for d in range(w.length))
    assert reach[len(w.nodes) + longest].log().item() == pytest.approx(by_hand, abs=1e-12)


def test_exact_r_is_the_expected_score_of_what_may_follow(w, score_M):
    logits = w.policy()
    log_p = logits.log_softmax(-1)
    r_P = w.satisfaction(log_p, score_M)
    p_M = w.reach(log_p)[len(w.nodes) :].exp()
    for prefix in [(), (1,), (1, 0)]:
        below = torch.tensor([leaf[: len(prefix)] == prefix for leaf in w.leaves])
        expected = (p_M * score_M)[below].sum() / p_M[below].sum()
        assert r_P[w.prefixes.index(prefix)].item() == pytest.approx(expected.item(), abs=1e-12)


def test_exact_r_satisfies_forward_consistency(w, score_M):
    log_p = w.policy().log_softmax(-1)
    logit_P = torch.logit(w.satisfaction(log_p, score_M), eps=1e-15)
    exact = forward_consistency(log_p, logit_P[w.children_NV], logit_P[: len(w.nodes)])
    wrong = forward_consistency(log_p, logit_P[w.children_NV], logit_P[: len(w.nodes)] + 0.5)
    assert abs(exact.item()) < 1e-12
    assert wrong.item() > 1e-4


@pytest.mark.parametrize("target", TARGETS)
def test_q_star_from_tokens_is_q_star_from_sequences(w, score_M, target):
    logits = w.policy()
    log_q, _, r_P = tilted(w, logits, score_M, target)
    from_tokens = w.reach(log_q)[len(w.nodes) :].exp()
    r, p_M = r_P[0], w.reach(logits.log_softmax(-1))[len(w.nodes) :].exp()
    alpha, beta = (target / r, (1 - target) / (1 - r)) if r < target else (1.0, 1.0)
    from_sequences = p_M * (alpha * score_M + beta * (1 - score_M))
    torch.testing.assert_close(from_tokens, from_sequences, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_q_star_reaches_the_target_exactly(w, target):
    score_M = w.hard_oracle(share=0.4)
    log_q, _, r_P = tilted(w, w.policy(), score_M, target)
    satisfied = (w.reach(log_q)[len(w.nodes) :].exp() * score_M).sum().item()
    assert satisfied == pytest.approx(max(target, r_P[0].item()), abs=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_soft_oracle_is_read_as_the_probability_of_satisfaction(w, target):
    score_M = w.soft_oracle()
    logits = w.policy()
    log_q, _, r_P = tilted(w, logits, score_M, target)
    r, p_M = r_P[0].item(), w.reach(logits.log_softmax(-1))[len(w.nodes) :].exp()
    alpha = target / r if r < target else 1.0
    satisfied_together = (p_M * alpha * score_M).sum().item()
    judged_afresh = (w.reach(log_q)[len(w.nodes) :].exp() * score_M).sum().item()
    assert satisfied_together == pytest.approx(max(target, r), abs=1e-12)
    assert r - 1e-12 <= judged_afresh <= max(target, r) + 1e-12


def test_nothing_that_reaches_the_target_is_nearer_to_the_model(w):
    target, score_M, logits = 0.9, w.hard_oracle(share=0.4), w.policy()
    log_q, _, r_P = tilted(w, logits, score_M, target)
    log_p_M = w.reach(logits.log_softmax(-1))[len(w.nodes) :]

    def divergence(q_M):
        return torch.xlogy(q_M, q_M / log_p_M.exp()).sum().item()

    q_star_M = w.reach(log_q)[len(w.nodes) :].exp()
    assert r_P[0] < target
    for noise in (1e-3, 0.1, 1.0):
        other_M = q_star_M * (noise * torch.randn(len(w.leaves), generator=w.random, dtype=torch.float64)).exp()
        kind = score_M == 1.0
        other_M = torch.where(
            kind, target * other_M / other_M[kind].sum(), (1 - target) * other_M / other_M[~kind].sum()
        )
        assert (other_M * score_M).sum().item() == pytest.approx(target)
        assert divergence(other_M) > divergence(q_star_M)


def test_the_hard_target_costs_minus_log_r(w, score_M):
    logits = w.policy()
    log_q, _, r_P = tilted(w, logits, score_M, 1.0)
    q_M, p_M = (w.reach(x)[len(w.nodes) :].exp() for x in (log_q, logits.log_softmax(-1)))
    # For a soft score, q* stands over pairs of output and outcome; only the satisfied outcome is left at δ = 1.
    divergence = torch.xlogy(q_M, q_M / (p_M * score_M.clamp(min=1e-300))).sum()
    assert divergence.item() == pytest.approx(-r_P[0].log().item(), abs=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_the_normaliser_is_the_tilt_of_the_prefix(w, score_M, target):
    logits = w.policy()
    _, log_w_P, _ = tilted(w, logits, score_M, target)
    log_z_N = torch.logsumexp(logits.log_softmax(-1) + log_w_P[w.children_NV], -1)
    torch.testing.assert_close(log_z_N.exp(), log_w_P[: len(w.nodes)].exp(), atol=1e-12, rtol=1e-9)
    assert log_w_P[0].item() == pytest.approx(0.0, abs=1e-12)
