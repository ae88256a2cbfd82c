import math

import pytest
import torch

from adhere.functional.target import PROBABILITY_FLOOR, log1mexp, log_q_star, log_tilt


def test_log1mexp_keeps_its_digits_at_both_ends():
    # The reference comes from numbers that float64 can hold exactly enough: 1 − (1 − ε) = ε.
    x = torch.tensor([-1e-30, -1e-12, -1e-3, -math.log(2), -1.0, -50.0, -1e4])
    expected = [math.log(1e-30), math.log(1e-12), math.log(-math.expm1(-1e-3)), -math.log(2), math.log1p(-math.exp(-1))]
    torch.testing.assert_close(log1mexp(x)[:5], torch.tensor(expected), rtol=1e-6, atol=0)
    assert log1mexp(x)[5].item() == pytest.approx(-math.exp(-50.0), rel=1e-5) and log1mexp(x)[6].item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_log1mexp_and_its_gradient_are_finite_everywhere(dtype):
    x = torch.tensor([0.0, -1e-38, -1e-30, -1e-20, -1e-7, -0.5, -0.7, -20.0, -1e4, -math.inf])
    x = x.to(dtype).requires_grad_()
    y = log1mexp(x)
    y.sum().backward()
    assert y.isfinite().all() and (y <= 0).all() and x.grad[5:].isfinite().all()
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    if dtype in (torch.float64, torch.float32):  # the others cannot hold a gradient of 1e38
        assert x.grad.isfinite().all()


def test_log1mexp_undoes_itself():
    p = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999])
    torch.testing.assert_close(log1mexp(log1mexp(p.log())).exp(), p, rtol=1e-4, atol=0)


def test_log1mexp_passes_gradcheck():
    x = torch.tensor([-0.01, -0.5, -0.7, -3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log1mexp, (x,))


@pytest.mark.parametrize("target", [0.3, 0.9, 1.0])
def test_the_tilt_is_the_formula(target):
    r_bar, big_r = 0.25, torch.tensor([0.0005, 0.2, 0.9, 1.0])
    alpha, beta = target / r_bar, (1 - target) / (1 - r_bar)
    expected = torch.log(beta + (alpha - beta) * big_r)
    torch.testing.assert_close(log_tilt(big_r.log().unsqueeze(0), torch.tensor([r_bar]), target)[0], expected)


@pytest.mark.parametrize("satisfaction", [0.7, 0.8, 1.0])
def test_a_satisfied_prompt_is_left_alone(satisfaction):
    log_w = log_tilt(torch.tensor([[0.0, 1e-9, 0.5, 1.0]]).log(), torch.tensor([satisfaction]), target=0.7)
    assert log_w.tolist() == [[0.0] * 4]


def test_each_prompt_has_its_own_satisfaction():
    log_r = torch.tensor([0.5, 0.9]).log().expand(2, 2)
    log_w = log_tilt(log_r, torch.tensor([0.5, 0.95]), target=0.9)
    assert log_w[0].exp().tolist() == pytest.approx([1.0, 0.2 + 1.6 * 0.9]) and log_w[1].tolist() == [0.0, 0.0]


def test_a_hard_target_still_guides_where_satisfaction_has_rounded_to_one():
    log_r = torch.nn.functional.logsigmoid(torch.tensor([[20.0, 2.0]]))
    satisfaction = torch.sigmoid(torch.tensor([18.0]))
    assert satisfaction.item() == 1.0
    torch.testing.assert_close(log_tilt(log_r, satisfaction, target=1.0), log_r)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 1, 3, 4)])
def test_any_shape_that_starts_with_the_batch_is_tilted_row_by_row(shape):
    log_r = torch.full(shape, 0.5).log()
    log_w = log_tilt(log_r, torch.tensor([0.5, 0.25]), target=1.0)
    assert log_w.shape == shape
    torch.testing.assert_close(log_w, torch.tensor([1.0, 2.0]).log().view(2, *[1] * (len(shape) - 1)).expand(shape))


@pytest.mark.parametrize("target", [1e-6, 0.5, 1 - 1e-7, 1.0])
@pytest.mark.parametrize("satisfaction", [0.0, 1e-38, 1e-7, 0.5, 1 - 2**-24, 1.0])
def test_no_r_makes_the_tilt_infinite(target, satisfaction):
    log_r = torch.tensor([[-math.inf, -1e4, -80.0, -1e-9, 0.0, 1e-6]], requires_grad=True)
    log_w = log_tilt(log_r, torch.tensor([satisfaction]), target)
    log_w.sum().backward()
    assert log_w.isfinite().all() and log_r.grad.isfinite().all()
    assert log_w.abs().max().item() <= -math.log(PROBABILITY_FLOOR) + 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", [0.9, 1.0])
def test_half_precision_is_tilted_in_float32(dtype, target):
    log_r, satisfaction = torch.tensor([[-1e-3, -0.7, -5.0]]).to(dtype), torch.tensor([0.3]).to(dtype)
    log_w = log_tilt(log_r, satisfaction, target)
    assert log_w.dtype == torch.float32
    assert torch.equal(log_w, log_tilt(log_r.float(), satisfaction.float(), target))
    assert log_q_star(log_r, log_w).dtype == torch.float32


@pytest.mark.parametrize("target", [0.0, -0.1, 1.5, math.nan])
def test_an_impossible_target_is_refused(target):
    with pytest.raises(ValueError, match=r"target must be in \(0, 1\], got"):
        log_tilt(torch.zeros(1, 2), torch.ones(1), target)


@pytest.mark.parametrize("satisfaction", [torch.ones(3), torch.ones(2, 1), torch.tensor(0.5)])
def test_satisfaction_must_have_one_number_a_row(satisfaction):
    with pytest.raises(ValueError, match="one probability for each row"):
        log_tilt(torch.zeros(2, 5), satisfaction, 0.9)


def test_a_token_the_model_never_produces_stays_impossible():
    log_q = log_q_star(torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([[0.0, 0.0, 5.0]]))
    assert log_q.exp().tolist() == [[0.5, 0.5, 0.0]]
