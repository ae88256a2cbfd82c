"""What holds for every policy, every R and every target."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adhere.functional.kl import constrained_kl, kl_to
from adhere.functional.nado import forward_consistency, oracle_likelihood, td_targets
from adhere.functional.prefixes import prefix_weights
from adhere.functional.target import log_q_star, log_tilt

exhaustive = settings(derandomize=True, deadline=None, max_examples=60)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9))
targets = st.sampled_from([1e-3, 0.3, 0.9, 0.999, 1.0])
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
# From R nearly 0 to R nearly 1, past where either can be told from 0 or 1.
spreads = st.sampled_from([0.0, 0.1, 3.0, 30.0, 200.0])
seeds = st.integers(0, 2**31)


def draw(shape, seed, spread):
    """Logits of a policy, log R of every next token, r of every row."""
    random = torch.Generator().manual_seed(seed)
    logits_BTV = 3.0 * torch.randn(shape, generator=random)
    logit_r_BTV = spread * torch.randn(shape, generator=random)
    satisfaction_B = torch.sigmoid(spread * torch.randn(shape[0], generator=random))
    return logits_BTV, torch.nn.functional.logsigmoid(logit_r_BTV), satisfaction_B


@exhaustive
@given(shapes, seeds, spreads, targets, dtypes)
def test_q_star_is_normalised_and_everything_is_finite(shape, seed, spread, target, dtype):
    logits, log_r, r = draw(shape, seed, spread)
    logits = logits.to(dtype).requires_grad_()
    log_w = log_tilt(log_r.to(dtype), r.to(dtype), target)
    log_q = log_q_star(logits, log_w)
    assert log_w.isfinite().all() and log_q.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(shape[:2], dtype=log_q.dtype))

    surrogate, value = constrained_kl(logits, log_w)
    assert surrogate.dtype == value.dtype == log_q.dtype
    assert surrogate.isfinite().all() and value.isfinite().all() and not value.requires_grad
    surrogate.mean().backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


@exhaustive
@given(shapes, seeds, spreads, targets, st.booleans())
def test_the_kl_is_not_negative(shape, seed, spread, target, anchored):
    logits, log_r, r = draw(shape, seed, spread)
    anchor = draw(shape, seed + 1, spread)[0] if anchored else None
    _, value = constrained_kl(logits, log_tilt(log_r, r, target), anchor)
    assert value.isfinite().all() and (value >= 0).all()
    assert (kl_to(logits, logits.flip(-1)) >= 0).all()


@exhaustive
@given(shapes, seeds, targets, st.sampled_from([0.0, 1e-12, 0.03, 0.5, 0.97, 1.0 - 2**-24, 1.0]))
def test_a_constant_r_returns_p(shape, seed, target, constant):
    logits, log_r, r = draw(shape, seed, 1.0)
    log_w = log_tilt(torch.full_like(log_r, constant).log(), torch.full_like(r, constant), target)
    surrogate, value = constrained_kl(logits, log_w)
    torch.testing.assert_close(log_w, torch.zeros_like(log_w), atol=1e-5, rtol=0)
    torch.testing.assert_close(log_q_star(logits, log_w), logits.log_softmax(-1), atol=2e-5, rtol=0)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-5, rtol=0)
    torch.testing.assert_close(surrogate, torch.zeros_like(value), atol=1e-5, rtol=0)


@exhaustive
@given(shapes, seeds, spreads, targets)
def test_renaming_the_tokens_renames_the_result(shape, seed, spread, target):
    logits, log_r, r = draw(shape, seed, spread)
    order = torch.randperm(shape[-1], generator=torch.Generator().manual_seed(seed))
    results, gradients = [], []
    for rename in (lambda x: x, lambda x: x[..., order]):
        moved = rename(logits).clone().requires_grad_()
        log_w = log_tilt(rename(log_r), r, target)
        surrogate, value = constrained_kl(moved, log_w)
        surrogate.sum().backward()
        results.append((surrogate.detach(), value, log_q_star(moved, log_w).detach()))
        gradients.append(moved.grad)
    torch.testing.assert_close(results[1][:2], results[0][:2], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(results[1][2], results[0][2][..., order], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0][..., order], atol=1e-6, rtol=1e-5)


@exhaustive
@given(shapes, seeds, st.integers(1, 3), st.sampled_from([0.0, 1e4, math.nan, math.inf]))
def test_padding_changes_nothing(shape, seed, extra, filler):
    batch, time, _ = shape
    random = torch.Generator().manual_seed(seed)
    logit_BT, target_BT = torch.randn(batch, time, generator=random), torch.rand(batch, time, generator=random)
    length_B = torch.randint(1, time + 1, (batch,), generator=random)
    mask_BT = torch.arange(time) < length_B.unsqueeze(1)
    settled_B = torch.randint(0, time + 1, (batch,), generator=random)
    score_B = torch.rand(batch, generator=random)
    weight_B = torch.rand(batch, generator=random) + 0.1

    def pad(x, value):
        return torch.nn.functional.pad(x, (0, extra), value=value)

    def results(logit, target, mask):
        logit = logit.clone().requires_grad_()
        loss = oracle_likelihood(logit, target, mask) + oracle_likelihood(logit, target, mask, weight_B)
        loss.backward()
        goals = td_targets(score_B, logit.sigmoid(), settled_B, mask, 0.4)
        weights = prefix_weights(logit.detach(), mask, 3.0)
        return loss.detach(), *(x[:, :time] for x in (logit.grad, goals, weights))

    spoiled = [x.masked_fill(~mask_BT, filler) for x in (logit_BT, target_BT)]
    padded = results(*(pad(x, filler) for x in spoiled), pad(mask_BT, False))
    torch.testing.assert_close(padded, results(logit_BT, target_BT, mask_BT))
    assert (padded[1][~mask_BT] == 0).all() and (padded[3][~mask_BT] == 0).all()


@exhaustive
@given(shapes, seeds, spreads, dtypes)
def test_consistency_is_not_negative_and_finite_however_sure_r_is(shape, seed, spread, dtype):
    random = torch.Generator().manual_seed(seed)
    log_p = torch.randn(shape[1:], generator=random).log_softmax(-1)
    logit_next = (spread * torch.randn(shape[1:], generator=random)).to(dtype)
    logit = (spread * torch.randn(shape[1], generator=random)).to(dtype).requires_grad_()
    loss = forward_consistency(log_p, logit_next, logit)
    loss.backward()
    assert loss.isfinite() and loss.item() > -1e-5
    assert logit.grad.isfinite().all()


@pytest.mark.parametrize("target", [0.5, 1.0])
def test_the_tilt_is_larger_where_r_is(target):
    log_r = torch.logspace(-8, 0, 40).log().unsqueeze(0)
    log_w = log_tilt(log_r, torch.tensor([0.4]), target)
    assert (log_w.diff() >= 0).all() and log_w[0, 0] < 0 < log_w[0, -1]
