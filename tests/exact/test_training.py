"""Training a tabular policy, one free logit for every next token, with exact guidance (method.md §1, §4, §8)."""

import pytest
import torch

from adhere.functional.kl import constrained_kl
from adhere.functional.target import log_q_star, log_tilt


def guidance(w, logits, score_M, target):
    """log W of every prefix, for the policy as it is: what an exactly fitted NADO gives."""
    r_P = w.satisfaction(logits.detach().log_softmax(-1), score_M)
    return log_tilt(r_P.log().unsqueeze(0), r_P[:1], target)[0]


def minimise(loss_of, start):
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = loss_of(logits)
        loss.backward()
        return loss

    optimiser.step(closure)
    return logits.detach()


def sequences(w, logits):
    return w.reach(logits.log_softmax(-1))[len(w.nodes) :].exp()


@pytest.mark.parametrize("target", [0.9, 1.0])
@pytest.mark.parametrize("start", ["the reference", "anywhere"])
def test_the_constrained_optimum_of_a_tabular_policy_is_q_star(world, target, start):
    w = world(4, 3, seed=7)
    reference, score_M = w.policy(), w.hard_oracle(share=0.4)
    log_w_P = guidance(w, reference, score_M, target)
    first = reference if start == "the reference" else w.policy()
    trained = minimise(lambda logits: constrained_kl(logits, log_w_P[w.children_NV], reference)[0].sum(), first)

    q_star_M = w.reach(log_q_star(reference, log_w_P[w.children_NV]))[len(w.nodes) :].exp()
    torch.testing.assert_close(sequences(w, trained), q_star_M, atol=1e-4, rtol=0)
    assert (sequences(w, trained) * score_M).sum().item() == pytest.approx(target, abs=1e-3)


def test_anchored_to_its_iterations_the_policy_reaches_q_star_and_stays_there(world):
    w = world(4, 3, seed=8)
    target, reference, score_M = 0.9, w.policy(), w.hard_oracle(share=0.4)
    q_star_M = w.reach(log_q_star(reference, guidance(w, reference, score_M, target)[w.children_NV]))[
        len(w.nodes) :
    ].exp()
    policy = reference
    for _ in range(3):
        anchor, log_w_NV = policy, guidance(w, policy, score_M, target)[w.children_NV]
        policy = minimise(lambda logits, a=anchor, lw=log_w_NV: constrained_kl(logits, lw, a)[0].sum(), anchor)
        torch.testing.assert_close(sequences(w, policy), q_star_M, atol=1e-4, rtol=0)


def corpus_loss(w, logits, corpus_M):
    return -(corpus_M * w.reach(logits.log_softmax(-1))[len(w.nodes) :]).sum()


def train(w, start, corpus_M, score_M, target, weight, staleness, iterations=40, steps=20):
    """L_LLM + λ·KL(q* ‖ p), live anchor, with guidance fitted on the policy of `staleness` iterations ago."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=0.7, momentum=0.8)
    snapshots = []
    for k in range(iterations):
        snapshots.append(logits.detach().clone())
        log_w_P = guidance(w, snapshots[max(0, k - staleness)], score_M, target)
        for _ in range(steps):
            optimiser.zero_grad()
            prefix_N = (w.reach(logits.detach().log_softmax(-1)) + log_w_P)[: len(w.nodes)].exp()
            surrogate_N, _ = constrained_kl(logits, log_w_P[w.children_NV])
            (corpus_loss(w, logits, corpus_M) + weight * (prefix_N * surrogate_N).sum()).backward()
            optimiser.step()
    return sequences(w, logits.detach())


@pytest.mark.parametrize(("target", "weight"), [(1.0, 0.5), (0.9, 0.3)])
def test_sequential_and_parallel_schedules_reach_the_same_optimum(world, target, weight):
    w = world(4, 3, seed=9)
    start, score_M = w.policy(), w.hard_oracle(share=0.4)
    corpus_M = sequences(w, w.policy())

    def objective(logits):
        r = w.satisfaction(logits.log_softmax(-1), score_M)[0]
        divergence = -r.log()
        if target < 1:  # KL(q* ‖ p) as a function of r alone
            divergence = target * (target / r).log() + (1 - target) * ((1 - target) / (1 - r)).log()
        return corpus_loss(w, logits, corpus_M) + weight * divergence

    optimum_M = sequences(w, minimise(objective, start))
    sequential_M = train(w, start, corpus_M, score_M, target, weight, staleness=0)
    parallel_M = train(w, start, corpus_M, score_M, target, weight, staleness=1)

    assert (corpus_M * score_M).sum() < (optimum_M * score_M).sum() - 0.05  # the constraint was worth something
    torch.testing.assert_close(sequential_M, optimum_M, atol=2e-3, rtol=0)
    torch.testing.assert_close(parallel_M, optimum_M, atol=2e-3, rtol=0)
    torch.testing.assert_close(parallel_M, sequential_M, atol=1e-3, rtol=0)
