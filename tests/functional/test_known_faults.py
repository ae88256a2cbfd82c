"""The faults of earlier code that are faults of the mathematics (method.md §7), each with a name.

Top-p samples treated as samples of p: tests/exact/test_sampling.py. The rest of §7 belongs to oracles, trainer and
evaluation.
"""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from adhere.functional.kl import constrained_kl
from adhere.functional.nado import forward_consistency, oracle_likelihood, td_targets
from adhere.functional.prefixes import prefix_weights
from adhere.functional.target import log_q_star, log_tilt


def fitted(loss_of, start):
    logit = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logit], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        loss_of(logit).backward()
        optimiser.step()
    return logit.detach()


def test_bce_with_logits_never_gets_a_logsigmoid():
    """Two prefixes with a true R of 0.9 and 0.6 must stay apart; the fault drove both to 1."""
    target_BT = torch.tensor([[1.0] * 9 + [0.0], [1.0] * 6 + [0.0] * 4])
    mask_BT = torch.ones_like(target_BT, dtype=torch.bool)
    start_B1 = torch.zeros(2, 1)

    r_B1 = fitted(lambda logit: oracle_likelihood(logit.expand(2, 10), target_BT, mask_BT), start_B1).sigmoid()
    assert r_B1[:, 0].tolist() == pytest.approx([0.9, 0.6], abs=0.01)

    def faulty(logit):
        return binary_cross_entropy_with_logits(logsigmoid(logit).expand(2, 10), target_BT)

    saturated_B1 = fitted(faulty, start_B1).sigmoid()
    assert (saturated_B1 > 0.98).all()  # what the fault looks like, so that the test above is known to see it


def test_the_first_output_token_counts():
    """An off-by-one slice skipped the prefix before it, and the token itself."""
    logit_BT = torch.zeros(1, 4, requires_grad=True)
    mask_BT = torch.ones(1, 4, dtype=torch.bool)  # the empty prefix and three tokens
    settled_B = torch.tensor([1])  # the very first token violates
    target_BT = td_targets(torch.zeros(1), torch.full((1, 4), 0.9), settled_B, mask_BT, td_lambda=0.5)
    assert target_BT[0].tolist() == pytest.approx([0.45, 0.0, 0.0, 0.0])
    oracle_likelihood(logit_BT, target_BT, mask_BT).backward()
    assert (logit_BT.grad[0] > 0).tolist() == [True] * 4

    weight_BT = prefix_weights(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), clip=2.0)
    assert weight_BT[0].tolist() == [1.0] * 3


@pytest.mark.parametrize("filler", [0.0, 7.0, math.nan])
def test_padding_is_masked(filler):
    logit_BT = torch.tensor([[0.5, -0.5, filler]], requires_grad=True)
    target_BT, mask_BT = torch.tensor([[1.0, 1.0, filler]]), torch.tensor([[True, True, False]])
    loss = oracle_likelihood(logit_BT, target_BT, mask_BT)
    loss = loss + forward_consistency(
        torch.tensor([[[0.0], [0.0], [filler]]]), torch.tensor([[[0.1], [0.2], [filler]]]), logit_BT, mask_BT
    )
    loss.backward()
    short = logit_BT.detach()[:, :2].requires_grad_()
    expected = oracle_likelihood(short, target_BT[:, :2], mask_BT[:, :2])
    expected = expected + forward_consistency(torch.zeros(1, 2, 1), torch.tensor([[[0.1], [0.2]]]), short)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert logit_BT.grad[0].tolist() == [*short.grad[0].tolist(), 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [17.0, 40.0, 120.0, 1e4])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_consistency_has_no_nan_once_r_rounds_to_one_or_zero(dtype, size, signs):
    log_p = torch.tensor([[0.25, 0.75]]).log()
    logit_next = torch.full((1, 2), signs[0] * size, dtype=dtype)
    logit = torch.full((1,), signs[1] * size, dtype=dtype, requires_grad=True)
    loss = forward_consistency(log_p, logit_next, logit)
    loss.backward()
    assert loss.isfinite() and logit.grad.isfinite().all()
    if signs[0] == signs[1]:
        assert loss.item() == pytest.approx(0.0, abs=1e-6)
    else:  # as wrong as can be, and the gradient says so
        assert loss.item() == pytest.approx(size, rel=1e-2) and abs(logit.grad.item()) == pytest.approx(1.0)


def test_no_gradient_flows_through_the_consistency_target():
    log_p = torch.tensor([[0.5, 0.5]]).log().requires_grad_()
    logit_next = torch.tensor([[1.0, -1.0]], requires_grad=True)
    logit = torch.tensor([2.0], requires_grad=True)
    forward_consistency(log_p, logit_next, logit).backward()
    assert logit.grad.abs().item() > 0.1
    assert log_p.grad is None and logit_next.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit_r", [-200.0, -90.0, -17.0, 17.0, 90.0, 200.0])
@pytest.mark.parametrize("target", [0.9, 1.0])
def test_q_star_and_its_gradient_have_no_nan_where_r_is_zero_or_one(dtype, logit_r, target):
    logits_BTV = torch.tensor([[[2.0, -1.0, 0.5]]], dtype=dtype, requires_grad=True)
    logit_r_BTV = torch.tensor([[[logit_r, 0.0, -logit_r]]], dtype=dtype)
    for satisfaction in (0.0, 0.5, 1.0):
        log_w_BTV = log_tilt(logsigmoid(logit_r_BTV), torch.tensor([satisfaction], dtype=dtype), target)
        surrogate_BT, value_BT = constrained_kl(logits_BTV, log_w_BTV)
        (gradient,) = torch.autograd.grad(surrogate_BT.sum(), logits_BTV)
        for result in (log_w_BTV, log_q_star(logits_BTV, log_w_BTV), surrogate_BT, value_BT, gradient):
            assert result.isfinite().all()
