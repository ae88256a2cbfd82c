import math

import pytest
import torch

from adhere.functional.prefixes import effective_sample_size, log_mean_weight, prefix_weights

LOG_W = torch.tensor([[0.0, 0.5, -1.0], [0.0, -3.0, 9.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_the_weights_have_mean_one_over_the_masked_positions():
    weight = prefix_weights(LOG_W, MASK, clip=100.0)
    assert weight[MASK].mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(weight[MASK] / weight[0, 0], LOG_W[MASK].exp())
    assert weight[1, 2].item() == 0.0


def test_no_position_counts_more_often_than_the_clip():
    full, clipped = (prefix_weights(LOG_W, MASK, clip=c) for c in (100.0, 1.2))
    torch.testing.assert_close(clipped, full.clamp(max=1.2))
    assert (full > 1.2).any()


def test_an_inactive_constraint_weighs_all_prefixes_alike():
    assert prefix_weights(torch.zeros(2, 3), MASK, clip=5.0).tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]


def test_a_common_factor_cancels():
    torch.testing.assert_close(prefix_weights(LOG_W + 50.0, MASK, 4.0), prefix_weights(LOG_W, MASK, 4.0))


def test_no_sample_is_dropped_for_having_violated_later():
    log_w = torch.tensor([[0.0, 0.2, -60.0], [0.0, 0.1, 0.3]])
    weight = prefix_weights(log_w, torch.ones(2, 3, dtype=torch.bool), clip=10.0)
    assert weight[0, 1] > weight[0, 0] > 0.5 and weight[0, 2] < 1e-20


def test_importance_weights_multiply_whole_samples():
    log_importance = torch.tensor([math.log(3.0), 0.0])
    weight = prefix_weights(LOG_W, MASK, 100.0, log_importance)
    plain = prefix_weights(LOG_W, MASK, 100.0)
    ratio = weight / plain
    torch.testing.assert_close(ratio[0, 0] / ratio[1, 0], torch.tensor(3.0))
    assert weight[MASK].mean().item() == pytest.approx(1.0)


def test_with_a_common_mean_the_weights_do_not_depend_on_how_a_batch_is_cut():
    log_mean = log_mean_weight(LOG_W, MASK)
    parts = [prefix_weights(LOG_W[i : i + 1], MASK[i : i + 1], 1.5, log_mean=log_mean) for i in range(2)]
    torch.testing.assert_close(torch.cat(parts), prefix_weights(LOG_W, MASK, 1.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_detached_and_finite(dtype):
    log_w = torch.tensor([[69.0, -69.0]], dtype=dtype, requires_grad=True)
    weight = prefix_weights(log_w, torch.ones(1, 2, dtype=torch.bool), clip=10.0)
    assert not weight.requires_grad and weight.isfinite().all() and weight.dtype == torch.float32


def test_a_batch_without_output_positions_has_no_weights():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert prefix_weights(LOG_W, nothing, 2.0).tolist() == torch.zeros(2, 3).tolist()
    assert log_mean_weight(LOG_W, nothing).item() == 0.0


def test_effective_sample_size_counts_equal_weights():
    assert effective_sample_size(torch.full((7,), -300.0)).item() == pytest.approx(7.0)
    assert effective_sample_size(torch.tensor([0.0, -300.0, -300.0])).item() == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([1.0, 3.0]).log()).item() == pytest.approx(16 / 10)
    assert effective_sample_size(torch.tensor([])).item() == 0.0
    assert effective_sample_size(torch.tensor([-math.inf])).item() == 0.0


@pytest.mark.parametrize("clip", [0.5, -1.0, math.nan])
def test_a_clip_below_the_mean_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be at least 1"):
        prefix_weights(LOG_W, MASK, clip)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the same two axes"):
        prefix_weights(LOG_W, MASK[:, :2], 2.0)
    with pytest.raises(ValueError, match="each of the 2 samples"):
        prefix_weights(LOG_W, MASK, 2.0, torch.zeros(3))
