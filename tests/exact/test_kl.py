"""The regulariser where every sequence can be counted (method.md §2, §8)."""

import pytest
import torch

from adhere.functional.kl import constrained_kl, kl_to
from adhere.functional.prefixes import prefix_weights
from adhere.functional.target import log_q_star, log_tilt

WORLDS = [(4, 3, 0), (5, 4, 1), (7, 4, 2)]


def sequence_kl(q_M, p_M):
    return torch.xlogy(q_M, q_M).sum() - torch.xlogy(q_M, p_M).sum()


@pytest.fixture(params=WORLDS, ids=str)
def w(request, world):
    return world(*request.param)


@pytest.fixture(params=[0.9, 1.0], ids="target {}".format)
def guided(request, w):
    """A policy, its exact tilt of every prefix, and q* of every node."""
    logits_NV, score_M = w.policy(), w.hard_oracle(share=0.4)
    r_P = w.satisfaction(logits_NV.log_softmax(-1), score_M)
    log_w_P = log_tilt(r_P.log().unsqueeze(0), r_P[:1], request.param)[0]
    log_w_NV = log_w_P[w.children_NV]
    return logits_NV, log_w_P, log_w_NV, log_q_star(logits_NV, log_w_NV)


def test_token_level_kl_sums_to_the_sequence_kl(w, guided):
    logits, _, log_w, log_q = guided
    reach_q = w.reach(log_q).exp()
    _, value_N = constrained_kl(logits, log_w)
    p_M = w.reach(logits.log_softmax(-1))[len(w.nodes) :].exp()
    summed = (reach_q[: len(w.nodes)] * value_N).sum().item()
    assert summed == pytest.approx(sequence_kl(reach_q[len(w.nodes) :], p_M).item(), abs=1e-10)


def test_token_level_kl_to_another_policy_sums_to_the_sequence_kl(w, guided):
    anchor, _, log_w, log_q = guided
    other = w.policy()
    reach_q = w.reach(log_q).exp()
    _, value_N = constrained_kl(other, log_w, anchor)
    p_M = w.reach(other.log_softmax(-1))[len(w.nodes) :].exp()
    summed = (reach_q[: len(w.nodes)] * value_N).sum().item()
    assert summed == pytest.approx(sequence_kl(reach_q[len(w.nodes) :], p_M).item(), abs=1e-10)


def test_leaving_out_the_first_output_token_breaks_the_sum(w, guided):
    logits, _, log_w, log_q = guided
    reach_q = w.reach(log_q).exp()
    _, value_N = constrained_kl(logits, log_w)
    p_M = w.reach(logits.log_softmax(-1))[len(w.nodes) :].exp()
    without_first = (reach_q[1 : len(w.nodes)] * value_N[1:]).sum().item()
    assert without_first < sequence_kl(reach_q[len(w.nodes) :], p_M).item() - 1e-3


def test_the_surrogate_has_the_gradient_of_the_value_with_q_fixed(guided):
    logits, _, log_w, log_q = guided
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    surrogate_N, _ = constrained_kl(ours, log_w)
    surrogate_N.sum().backward()
    (log_q.exp() * (log_q - theirs.log_softmax(-1))).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def test_the_anchored_value_has_the_gradient_of_the_value_with_q_fixed(w, guided):
    anchor, _, log_w, log_q = guided
    other = w.policy()
    ours, theirs = other.clone().requires_grad_(), other.clone().requires_grad_()
    surrogate_N, value_N = constrained_kl(ours, log_w, anchor)
    assert surrogate_N is value_N
    surrogate_N.sum().backward()
    (log_q.exp() * (log_q - theirs.log_softmax(-1))).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def live_gradient(w, start, score_M, target):
    """Of the surrogate over prefixes that come from p and are weighted into prefixes of q*, as in training."""
    logits = start.clone().requires_grad_()
    r_P = w.satisfaction(start.log_softmax(-1), score_M)
    log_w_P = log_tilt(r_P.log().unsqueeze(0), r_P[:1], target)[0]
    weight_N = (w.reach(start.log_softmax(-1)) + log_w_P)[: len(w.nodes)].exp()
    surrogate_N, _ = constrained_kl(logits, log_w_P[w.children_NV])
    (weight_N * surrogate_N).sum().backward()
    return logits.grad


@pytest.mark.parametrize("oracle", ["hard_oracle", "soft_oracle", "banned_token_oracle"])
def test_the_live_surrogate_descends_minus_log_probability_of_satisfaction(w, oracle):
    score_M, start = getattr(w, oracle)(), w.policy()
    exact = start.clone().requires_grad_()
    (-w.satisfaction(exact.log_softmax(-1), score_M)[0].log()).backward()
    torch.testing.assert_close(live_gradient(w, start, score_M, 1.0), exact.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("oracle", ["hard_oracle", "soft_oracle", "banned_token_oracle"])
def test_the_live_surrogate_descends_the_bernoulli_kl_from_target_to_satisfaction(w, oracle):
    score_M, start, target = getattr(w, oracle)(), w.policy(), 0.98
    exact = start.clone().requires_grad_()
    r = w.satisfaction(exact.log_softmax(-1), score_M)[0]
    assert r < target
    (target * (target / r).log() + (1 - target) * ((1 - target) / (1 - r)).log()).backward()
    torch.testing.assert_close(live_gradient(w, start, score_M, target), exact.grad, atol=1e-12, rtol=0)


def test_the_live_surrogate_leaves_a_satisfied_model_alone(w):
    assert live_gradient(w, w.policy(), w.hard_oracle(share=0.9), 0.01).abs().max().item() < 1e-15


def test_the_tilt_of_a_prefix_turns_prefixes_of_p_into_prefixes_of_q_star(w, guided):
    logits, log_w_P, _, log_q = guided
    reach_p, reach_q = w.reach(logits.log_softmax(-1)), w.reach(log_q)
    torch.testing.assert_close((reach_p + log_w_P - log_w_P[0]).exp(), reach_q.exp(), atol=1e-12, rtol=1e-9)


def test_weighted_positions_of_samples_average_to_the_kl_per_token_of_q_star(w, guided):
    """Every sequence once, as if drawn uniformly: the importance weights bring p back, the tilt turns it into q*."""
    logits, log_w_P, log_w, log_q = guided
    log_p_M = w.reach(logits.log_softmax(-1))[len(w.nodes) :]
    mask_ML = w.path_mask_ML[:, 1:]  # one position a token
    weight_ML = prefix_weights(log_w_P[w.path_ML[:, :-1]], mask_ML, clip=1e9, log_importance_B=log_p_M + 3.0)
    _, value_N = constrained_kl(logits, log_w)
    value_ML = torch.where(mask_ML, value_N[w.path_ML[:, :-1].clamp(max=len(w.nodes) - 1)], 0.0)
    estimated = (weight_ML * value_ML).sum() / mask_ML.sum()

    reach_q_N = w.reach(log_q)[: len(w.nodes)].exp()
    tokens_of_q = reach_q_N.sum()  # a node is arrived at once for every token that follows it
    assert weight_ML[mask_ML].mean().item() == pytest.approx(1.0)
    assert estimated.item() == pytest.approx(((reach_q_N * value_N).sum() / tokens_of_q).item(), abs=1e-10)


def test_kl_to_a_reference_sums_to_the_sequence_kl(w):
    reference, other = w.policy(), w.policy()
    reach = w.reach(reference.log_softmax(-1)).exp()
    p_M = w.reach(other.log_softmax(-1))[len(w.nodes) :].exp()
    summed = (reach[: len(w.nodes)] * kl_to(other, reference)).sum().item()
    assert summed == pytest.approx(sequence_kl(reach[len(w.nodes) :], p_M).item(), abs=1e-10)
