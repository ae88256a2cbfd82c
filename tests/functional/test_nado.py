import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from adhere.functional.nado import forward_consistency, oracle_likelihood, td_targets, violated_from


def bernoulli_kl(a, b):
    return a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()


def test_oracle_likelihood_is_the_cross_entropy_of_r():
    logit, target = torch.tensor([[0.3, -1.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.25, 0.5]])
    mask = torch.tensor([[True, True], [True, False]])
    expected = binary_cross_entropy(logit.sigmoid()[mask], target[mask])
    torch.testing.assert_close(oracle_likelihood(logit, target, mask), expected)


def test_a_weight_of_two_is_the_sequence_twice():
    logit, target = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.full((3, 4), 0.8)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    twice = [0, 1, 1, 2]
    weighted = oracle_likelihood(logit, target, mask, torch.tensor([1.0, 2.0, 1.0]))
    torch.testing.assert_close(weighted, oracle_likelihood(logit[twice], target[twice], mask[twice]))
    torch.testing.assert_close(
        oracle_likelihood(logit, target, mask, torch.full((3,), 1e-12)), oracle_likelihood(logit, target, mask)
    )


def test_a_batch_in_which_nothing_counts_costs_nothing():
    logit = torch.randn(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = oracle_likelihood(logit, logit.detach(), nothing) + oracle_likelihood(
        logit, logit.detach(), nothing, torch.ones(2)
    )
    loss = loss + forward_consistency(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), logit, nothing)
    loss.backward()
    assert loss.item() == 0.0 and (logit.grad == 0).all()


def test_half_precision_logits_are_judged_in_float32():
    logit = torch.tensor([[12.0]], dtype=torch.bfloat16)
    loss = oracle_likelihood(logit, torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log1p(math.exp(-12.0)), rel=1e-5)


def test_consistency_is_the_bernoulli_kl_from_the_average_over_next_tokens():
    random = torch.Generator().manual_seed(0)
    log_p, logit_next = torch.randn(5, 9, generator=random).log_softmax(-1), 2 * torch.randn(5, 9, generator=random)
    logit = torch.randn(5, generator=random)
    average = (log_p.exp() * logit_next.sigmoid()).sum(-1)
    expected = bernoulli_kl(average, logit.sigmoid())
    torch.testing.assert_close(forward_consistency(log_p, logit_next, logit), expected.mean())
    mask = torch.tensor([1, 0, 1, 0, 0]).bool()
    torch.testing.assert_close(forward_consistency(log_p, logit_next, logit, mask), expected[mask].mean())
    as_BT = forward_consistency(log_p.unsqueeze(0), logit_next.unsqueeze(0), logit.unsqueeze(0), mask.unsqueeze(0))
    torch.testing.assert_close(as_BT, expected[mask].mean())


def test_consistency_has_the_gradient_r_minus_its_target():
    log_p, logit_next = torch.tensor([[0.5, 0.5]]).log(), torch.logit(torch.tensor([[0.2, 0.6]]))
    logit = torch.tensor([1.0], requires_grad=True)
    forward_consistency(log_p, logit_next, logit).backward()
    assert logit.grad.item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item() - 0.4, abs=1e-6)


def test_consistency_tells_a_rare_violation_from_a_rarer_one():
    """1 − R of 1e-9 and of 1e-10: both have R = 1 in float32, only log(1 − R) keeps them apart."""
    log_p = torch.zeros(1, 1)
    logit_next = torch.tensor([[-math.log(1e-9)]])
    assert forward_consistency(log_p, logit_next, logit_next[:, 0]).item() == 0.0
    logit = torch.tensor([-math.log(1e-10)], requires_grad=True)
    loss = forward_consistency(log_p, logit_next, logit)
    loss.backward()
    assert loss.item() == pytest.approx(1e-9 * (math.log(10) - 0.9), rel=1e-2)
    assert logit.grad.item() == pytest.approx((1 - 1e-10) - (1 - 1e-9), rel=1e-3)


def example(violated_at, td_lambda, final=0.0):
    value = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]], requires_grad=True)
    mask = torch.tensor([[True, True, True, True, False]])  # three tokens, then padding
    target = td_targets(torch.tensor([final]), value, torch.tensor([violated_at]), mask, td_lambda)
    assert not target.requires_grad
    return target[0].tolist()


def test_lambda_one_is_the_final_score_everywhere():
    assert example(99, 1.0, final=1.0) == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert example(2, 1.0, final=0.2) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.0])


def test_lambda_zero_is_the_value_of_the_next_prefix():
    assert example(99, 0.0, final=1.0) == pytest.approx([0.8, 0.7, 0.6, 1.0, 0.0])


def test_a_lambda_between_mixes_the_two_backwards():
    at_2 = 0.5 * 0.6 + 0.5 * 1.0
    at_1 = 0.5 * 0.7 + 0.5 * at_2
    at_0 = 0.5 * 0.8 + 0.5 * at_1
    assert example(99, 0.5, final=1.0) == pytest.approx([at_0, at_1, at_2, 1.0, 0.0])


def test_from_the_violation_on_the_target_is_the_final_score():
    assert example(2, 0.0) == pytest.approx([0.8, 0.7, 0.0, 0.0, 0.0])
    assert example(0, 0.3) == [0.0, 0.0, 0.0, 0.0, 0.0]


def test_rows_of_different_length_do_not_see_each_other():
    random = torch.Generator().manual_seed(1)
    value, final = torch.rand(3, 6, generator=random), torch.tensor([1.0, 0.0, 0.3])
    settled, length = torch.tensor([9, 1, 2]), [6, 3, 1]
    mask = torch.arange(6) < torch.tensor(length).unsqueeze(1)
    together = td_targets(final, value, settled, mask, 0.7)
    for b, n in enumerate(length):
        alone = td_targets(final[b : b + 1], value[b : b + 1, :n], settled[b : b + 1], mask[b : b + 1, :n], 0.7)
        torch.testing.assert_close(together[b, :n], alone[0])
        assert together[b, n:].tolist() == [0.0] * (6 - n)
        assert together[b, n - 1].item() == pytest.approx(final[b].item())


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 1.0, 1.0], 3),
        ([1.0, 0.0, 0.0], 1),
        ([0.0, 0.0, 0.0], 0),
        ([1.0, 0.0, 1.0], 3),  # "…ass" went on to "…assistant"
        ([1.0, 0.0, 1.0, 0.0], 3),
        ([1.0, 0.49, 0.5], 3),
        ([1.0, 0.5, 0.49], 2),
        ([], 0),
    ],
)
def test_only_the_settled_suffix_is_violated(scores, expected):
    assert violated_from(scores) == expected


@pytest.mark.parametrize("td_lambda", [-0.1, 1.1, math.nan])
def test_an_impossible_lambda_is_refused(td_lambda):
    with pytest.raises(ValueError, match=r"td_lambda must be in \[0, 1\], got"):
        example(1, td_lambda)


def test_shapes_that_do_not_fit_are_refused_with_their_names():
    true = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"logit_r_BT \(2, 3\), target_BT \(2, 4\)"):
        oracle_likelihood(torch.zeros(2, 3), torch.zeros(2, 4), true)
    with pytest.raises(ValueError, match=r"weight_B \(3,\)"):
        oracle_likelihood(torch.zeros(2, 3), torch.zeros(2, 3), true, torch.ones(3))
    with pytest.raises(ValueError, match=r"logit_r_N \(3,\), positions_of_log_p \(2,\)"):
        forward_consistency(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"violated_from_B \(1,\)"):
        td_targets(torch.zeros(2), torch.zeros(2, 3), torch.zeros(1), true, 0.5)
