import math

import pytest
import torch

from adhere.functional import kl
from adhere.functional.kl import constrained_kl, kl_to


def inputs(*shape, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = (4.0 * torch.randn(shape, generator=random)).to(dtype)
    log_w = -3.0 * torch.rand(shape, generator=random)
    anchor = (4.0 * torch.randn(shape, generator=random)).to(dtype)
    return logits, log_w, anchor


def naive(logits, log_w, anchor):
    """The formulas of method.md §2, as they are written, in float64: surrogate and value."""
    logits, log_w = logits.double(), log_w.double()
    log_q = ((logits if anchor is None else anchor.double()) + log_w).log_softmax(-1).detach()
    value = (log_q.exp() * (log_q - logits.log_softmax(-1))).sum(-1)
    if anchor is not None:
        return value, value
    return -(torch.logsumexp(logits + log_w, -1) - torch.logsumexp(logits, -1)), value


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 7), (2, 2, 3, 7), (1, 1, 1), (0, 7)], ids=str)
@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("elements", [1, 16, 2**20])
def test_it_is_the_naive_formula_however_it_is_cut_into_blocks(monkeypatch, shape, anchored, elements):
    monkeypatch.setattr(kl, "_BLOCK_ON_CPU", elements)
    logits, log_w, anchor = inputs(*shape)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weight = torch.rand(shape[:-1], generator=torch.Generator().manual_seed(1))
    got = constrained_kl(ours, log_w, anchor if anchored else None)
    expected = naive(theirs, log_w, anchor if anchored else None)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-6, rtol=1e-6)
    (weight * got[0]).sum().backward()
    (weight * expected[0]).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("anchored", [False, True])
def test_half_precision_logits_are_judged_in_float32(dtype, anchored):
    logits, log_w, anchor = inputs(3, 50, dtype=dtype)
    ours, exact = logits.clone().requires_grad_(), logits.float().requires_grad_()
    got = constrained_kl(ours, log_w, anchor if anchored else None)
    expected = constrained_kl(exact, log_w, anchor.float() if anchored else None)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    got[0].sum().backward()
    expected[0].sum().backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad.float(), exact.grad, atol=1e-6, rtol=2**-7)


def test_small_gradients_survive_a_loss_scaler_in_float16():
    logits = torch.zeros(1, 4096, dtype=torch.float16, requires_grad=True)
    log_w = torch.zeros(1, 4096)
    log_w[0, 0] = -1e-3  # p − q of the other tokens is 6e-11, below anything float16 can hold
    surrogate, _ = constrained_kl(logits, log_w)
    (surrogate.sum() * 2.0**15).backward()
    assert logits.grad.isfinite().all() and (logits.grad[0, 1:] != 0).all()


def test_the_anchored_form_passes_gradcheck():
    logits, log_w, anchor = inputs(2, 5, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: constrained_kl(x, log_w.double(), anchor)[0], (logits,))
    assert torch.autograd.gradcheck(lambda x: kl_to(x, anchor), (logits,))


def test_the_live_value_is_a_number_to_log_and_the_surrogate_is_minus_log_z():
    logits, log_w, _ = inputs(2, 3, 7)
    surrogate, value = constrained_kl(logits.requires_grad_(), log_w)
    assert surrogate.requires_grad and not value.requires_grad
    expected = -torch.log((logits.softmax(-1) * log_w.exp()).sum(-1))
    torch.testing.assert_close(surrogate, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(surrogate, value, atol=0.05)


def test_anchored_to_the_model_itself_the_value_is_the_live_value():
    logits, log_w, _ = inputs(2, 3, 7)
    torch.testing.assert_close(constrained_kl(logits, log_w, logits)[1], constrained_kl(logits, log_w)[1])


def test_neither_log_w_nor_the_anchor_receives_a_gradient():
    logits, log_w, anchor = (x.requires_grad_() for x in inputs(3, 7))
    surrogates = [constrained_kl(logits, log_w)[0], constrained_kl(logits, log_w, anchor)[0], kl_to(logits, anchor)]
    sum(s.sum() for s in surrogates).backward()
    assert logits.grad is not None and log_w.grad is None and anchor.grad is None


def test_the_graph_may_be_walked_twice():
    logits, log_w, _ = inputs(3, 7)
    surrogate, _ = constrained_kl(logits.requires_grad_(), log_w)
    first, second = (torch.autograd.grad(surrogate.sum(), logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("learns", "expected"), [(False, []), (True, [(3, 7)])])
def test_only_p_minus_q_is_kept_and_only_where_there_is_a_gradient(monkeypatch, learns, expected):
    logits, log_w, _ = inputs(3, 7)
    made, kept, empty = [], [], torch.empty
    monkeypatch.setattr(
        kl.torch, "empty", lambda shape, **options: made.append(tuple(shape)) or empty(shape, **options)
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        constrained_kl(logits.requires_grad_(learns), log_w)
    assert [shape for shape in made if len(shape) == 2] == kept == expected


def test_a_slice_of_the_logits_gives_what_its_copy_gives():
    logits, log_w, anchor = inputs(2, 5, 7)
    for a in (None, anchor[:, :-1]):
        sliced = constrained_kl(logits[:, :-1], log_w[:, 1:], a)
        copied = constrained_kl(logits[:, :-1].clone(), log_w[:, 1:].clone(), None if a is None else a.clone())
        assert all(torch.equal(x, y) for x, y in zip(sliced, copied, strict=True))


@pytest.mark.parametrize("anchored", [False, True])
def test_a_token_that_no_model_produces_counts_nothing(anchored):
    logits, log_w, anchor = inputs(3, 7)
    barred = torch.zeros(7, dtype=torch.bool)
    barred[2] = True
    with_barred = [x.masked_fill(barred, -math.inf).requires_grad_() for x in (logits, anchor)]
    got = constrained_kl(with_barred[0], log_w, with_barred[1] if anchored else None)
    expected = constrained_kl(*(x[:, ~barred] for x in (logits, log_w)), anchor[:, ~barred] if anchored else None)
    torch.testing.assert_close(tuple(x.detach() for x in got), expected)
    got[0].sum().backward()
    assert with_barred[0].grad.isfinite().all() and (with_barred[0].grad[:, 2] == 0).all()


def test_a_shift_of_the_logits_costs_no_digits():
    logits, log_w, _ = inputs(64, 50)
    # R is nearly constant: log Z is far smaller than the rounding of logits around 1000.
    logits, log_w = (logits + 1000.0), 1e-4 * log_w
    surrogate, value = constrained_kl(logits, log_w)
    exact = naive(logits, log_w, None)
    torch.testing.assert_close(surrogate.double(), exact[0], atol=5e-7, rtol=0)
    torch.testing.assert_close(value.double(), exact[1], atol=5e-7, rtol=0)


def test_a_model_sure_of_a_violation_still_gets_finite_numbers():
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    log_w = torch.tensor([[-69.0, 0.7]])
    surrogate, value = constrained_kl(logits, log_w)
    surrogate.sum().backward()
    assert surrogate.item() == pytest.approx(69.0) and value.item() == pytest.approx(0.0, abs=1e-4)
    anchored, _ = constrained_kl(torch.tensor([[-100.0, 100.0]]), log_w, logits)
    assert anchored.item() == pytest.approx(200.0, rel=1e-5)


@pytest.mark.parametrize("given", [(2, 3, 6), (3, 7), (7,)])
def test_shapes_that_differ_are_refused_with_both_shown(given):
    with pytest.raises(ValueError, match=r"one shape, of two axes or more; got \(.*7\), \("):
        constrained_kl(torch.zeros(2, 3, 7), torch.zeros(given))
    with pytest.raises(ValueError, match="one shape"):
        kl_to(torch.zeros(7), torch.zeros(7))
