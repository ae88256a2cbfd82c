"""R is an expectation under p: what becomes of it when the samples come from something else (method.md §3)."""

import math

import pytest
import torch

from adhere.functional.nado import oracle_likelihood
from adhere.functional.prefixes import effective_sample_size, prefix_weights


def tempered(logits, temperature):
    return (logits / temperature).log_softmax(-1)


def nucleus(logits, top_p):
    """The usual rule: the smallest set of tokens with at least this probability, renormalised."""
    p, order = logits.softmax(-1).sort(-1, descending=True)
    kept = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, p.cumsum(-1) - p < top_p)
    return logits.masked_fill(~kept, -torch.inf).log_softmax(-1)


@pytest.fixture
def setting(world):
    """The likely tokens satisfy, the unlikely ones do not: cutting the tail flatters the model."""
    w = world(5, 3, seed=10)
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, -0.5], dtype=torch.float64) + 0.3 * w.policy()
    score_M = w.banned_token_oracle(token=3)
    return w, logits, score_M, w.satisfaction(logits.log_softmax(-1), score_M)[0].item()


def estimates(w, logits, log_s_NV, score_M, count=20_000):
    """Mean score of samples of s: as they come, and with importance weights; and the effective sample size."""
    drawn = w.sample(log_s_NV, count)
    log_p_M, log_s_M = (w.reach(x)[len(w.nodes) :] for x in (logits.log_softmax(-1), log_s_NV))
    log_importance_B = (log_p_M - log_s_M)[drawn]
    one_B1 = torch.zeros(count, 1, dtype=torch.float64)
    weight_B = prefix_weights(one_B1, torch.ones(count, 1, dtype=torch.bool), 1e9, log_importance_B)[:, 0]
    score_B = score_M[drawn]
    return score_B.mean().item(), (weight_B * score_B).mean().item(), effective_sample_size(log_importance_B).item()


def test_samples_of_p_estimate_r(setting):
    w, logits, score_M, r = setting
    plain, weighted, size = estimates(w, logits, logits.log_softmax(-1), score_M)
    assert plain == pytest.approx(r, abs=0.01) and weighted == pytest.approx(plain)
    assert size == pytest.approx(20_000)


def test_importance_weights_bring_tempered_samples_back_to_p(setting):
    w, logits, score_M, r = setting
    plain, weighted, size = estimates(w, logits, tempered(logits, 0.6), score_M)
    assert plain > r + 0.08
    assert weighted == pytest.approx(r, abs=0.02)
    assert 1_000 < size < 19_000


def test_top_p_samples_are_not_samples_of_p(world):
    """The weights correct what top-p does within what it can produce; the mass that it cuts off stays unseen."""
    w = world(5, 3, seed=14)
    logits, score_M = w.policy(2.0), w.hard_oracle(share=0.5)
    r = w.satisfaction(logits.log_softmax(-1), score_M)[0].item()
    log_s = nucleus(logits, 0.7)
    p_M, s_M = (w.reach(x)[len(w.nodes) :].exp() for x in (logits.log_softmax(-1), log_s))
    within = ((p_M * score_M)[s_M > 0].sum() / p_M[s_M > 0].sum()).item()
    plain, weighted, _ = estimates(w, logits, log_s, score_M)
    assert weighted == pytest.approx(within, abs=0.01)
    assert abs(plain - within) > 0.03
    assert abs(plain - r) > 0.05 and abs(weighted - r) > 0.05


def test_top_p_samples_among_samples_of_p_are_corrected_in_full(setting):
    """With one sample in two untruncated nothing is out of reach, and no weight exceeds 2."""
    w, logits, score_M, r = setting
    log_p_M, log_s_M = (w.reach(x)[len(w.nodes) :] for x in (logits.log_softmax(-1), nucleus(logits, 0.9)))
    log_mixture_M = torch.logaddexp(log_p_M, log_s_M) - math.log(2.0)
    drawn = torch.multinomial(log_mixture_M.exp(), 20_000, replacement=True, generator=w.random)
    weight_B = (log_p_M - log_mixture_M)[drawn].exp()
    assert abs(score_M[drawn].mean().item() - r) > 0.04
    assert weight_B.max().item() <= 2.0 + 1e-9
    assert ((weight_B * score_M[drawn]).sum() / weight_B.sum()).item() == pytest.approx(r, abs=0.01)


def test_a_nado_fitted_on_tempered_samples_needs_their_weights(setting):
    w, logits, score_M, r = setting
    log_s = tempered(logits, 0.6)
    drawn = w.sample(log_s, 20_000)
    log_p_M, log_s_M = (w.reach(x)[len(w.nodes) :] for x in (logits.log_softmax(-1), log_s))
    target_BT = score_M[drawn].unsqueeze(1)
    mask_BT = torch.ones_like(target_BT, dtype=torch.bool)
    weight_B = (log_p_M - log_s_M)[drawn].exp()
    for weights, expected in ((weight_B, r), (None, (log_s_M.exp() * score_M).sum().item())):
        logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([logit], max_iter=50, line_search_fn="strong_wolfe")

        def closure(logit=logit, weights=weights, optimiser=optimiser):
            optimiser.zero_grad()
            loss = oracle_likelihood(logit.expand_as(target_BT), target_BT, mask_BT, weights)
            loss.backward()
            return loss

        optimiser.step(closure)
        assert logit.sigmoid().item() == pytest.approx(expected, abs=0.02)
