"""A tabular NADO: one free logit for every prefix (method.md §3, §8)."""

import pytest
import torch

from adhere.functional.nado import forward_consistency, oracle_likelihood, td_targets, violated_from


def fit(loss_of, prefixes, steps=300, rate=0.3):
    logit_P = torch.zeros(prefixes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logit_P], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(logit_P).backward()
        optimiser.step()
        schedule.step()
    return logit_P.detach()


@pytest.mark.parametrize("oracle", ["hard_oracle", "soft_oracle", "banned_token_oracle"])
def test_a_tabular_nado_fitted_on_samples_converges_to_exact_r(world, oracle):
    w = world(4, 3, seed=3)
    log_p, score_M = w.policy(0.5).log_softmax(-1), getattr(w, oracle)()
    drawn = w.sample(log_p, 4096)
    path_BT, mask_BT = w.path_ML[drawn], w.path_mask_ML[drawn]
    target_BT = score_M[drawn].unsqueeze(1).expand(-1, path_BT.shape[1])

    def loss_of(logit_P):
        likelihood = oracle_likelihood(logit_P[path_BT], target_BT, mask_BT)
        return likelihood + forward_consistency(log_p, logit_P[w.children_NV], logit_P[: len(w.nodes)])

    fitted = fit(loss_of, len(w.prefixes)).sigmoid()
    assert (fitted - w.satisfaction(log_p, score_M)).abs().max().item() < 0.03


def test_complete_sequences_of_any_policy_and_consistency_are_enough(world):
    """Corpus rows help: a complete sequence has R = C whoever wrote it, and consistency carries it back under p."""
    w = world(4, 3, seed=4)
    log_p, score_M = w.policy().log_softmax(-1), w.soft_oracle()
    path_BT, mask_BT = w.path_ML, w.path_mask_ML.clone()
    complete_BT = mask_BT & ~torch.nn.functional.pad(mask_BT[:, 1:], (0, 1))

    def loss_of(logit_P):
        likelihood = oracle_likelihood(logit_P[path_BT], score_M.unsqueeze(1).expand(path_BT.shape), complete_BT)
        return likelihood + forward_consistency(log_p, logit_P[w.children_NV], logit_P[: len(w.nodes)])

    fitted = fit(loss_of, len(w.prefixes), steps=600).sigmoid()
    torch.testing.assert_close(fitted, w.satisfaction(log_p, score_M), atol=2e-3, rtol=0)


@pytest.mark.parametrize("td_lambda", [0.0, 0.3, 1.0])
def test_td_targets_average_to_exact_r_when_the_values_are_exact(world, td_lambda):
    w = world(5, 4, seed=5)
    log_p, score_M = w.policy().log_softmax(-1), w.banned_token_oracle(token=1)
    r_P = w.satisfaction(log_p, score_M)
    scores = [[float(1 not in leaf[:i]) for i in range(len(leaf) + 1)] for leaf in w.leaves]
    settled_B = torch.tensor([violated_from(prefix_scores) for prefix_scores in scores])
    target_ML = td_targets(score_M, r_P[w.path_ML], settled_B, w.path_mask_ML, td_lambda)

    p_M = w.reach(log_p)[len(w.nodes) :].exp()
    weight_ML = p_M.unsqueeze(1) * w.path_mask_ML
    total_P = torch.zeros(len(w.prefixes), dtype=torch.float64)
    average_P = total_P.index_put((w.path_ML,), weight_ML * target_ML, accumulate=True) / total_P.index_put(
        (w.path_ML,), weight_ML, accumulate=True
    )
    torch.testing.assert_close(average_P, r_P, atol=1e-12, rtol=0)


def test_the_token_that_violates_gets_the_blame(world):
    """With exact values and a prefix-closed oracle, a clean prefix is not blamed for the token that came after it."""
    w = world(5, 4, seed=6)
    log_p, score_M = w.policy().log_softmax(-1), w.banned_token_oracle(token=1)
    r_P = w.satisfaction(log_p, score_M)
    leaf = w.leaves.index((0, 2, 1, 0))
    path, mask = w.path_ML[leaf].unsqueeze(0), w.path_mask_ML[leaf].unsqueeze(0)
    target = td_targets(score_M[leaf : leaf + 1], r_P[path], torch.tensor([3]), mask, td_lambda=0.0)[0]
    torch.testing.assert_close(target[:2], r_P[path[0, 1:3]])
    assert target[3:].tolist() == [0.0, 0.0]
