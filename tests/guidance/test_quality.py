"""What a fitted NADO is judged by, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from adhere.guidance.quality import fit_quality


def _logit(*r: float) -> torch.Tensor:
    return torch.logit(torch.tensor(r, dtype=torch.float64))


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    # Satisfied 0.9, 0.6, 0.3; violating 0.6, 0.2: of six pairs 4 stand right, 0.3 < 0.6 wrong, 0.6 = 0.6 half.
    r, score = _logit(0.9, 0.6, 0.3, 0.6, 0.2), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    quality = fit_quality(r, score, -r)
    assert quality["auc"] == pytest.approx(4.5 / 6)
    assert quality["value_auc"] == pytest.approx(1.5 / 6)


def test_a_soft_score_is_satisfied_from_a_half() -> None:
    quality = fit_quality(_logit(0.9, 0.1), torch.tensor([0.5, 0.49]), _logit(0.1, 0.9))
    assert (quality["auc"], quality["value_auc"]) == (1.0, 0.0)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_where_all_labels_are_equal_there_is_nothing_to_rank(score: float) -> None:
    assert fit_quality(_logit(0.2, 0.8), torch.full((2,), score), _logit(0.2, 0.8))["auc"] == 0.5


def test_calibration_error_is_the_gap_between_r_and_score_by_bin() -> None:
    # Bin [0.1, 0.2): r 0.12 and 0.18, scores 0 and 1: gap |0.15 − 0.5|. Bin [0.9, 1]: r 0.95, 1: gap |0.975 − 1|.
    r = torch.tensor([0.12, 0.18, 0.95], dtype=torch.float64).logit()
    r = torch.cat([r, torch.tensor([60.0], dtype=torch.float64)])
    quality = fit_quality(r, torch.tensor([0.0, 1.0, 1.0, 1.0]), r)
    assert quality["calibration_error"] == pytest.approx(0.5 * 0.35 + 0.5 * 0.025)


def test_a_calibrated_r_has_no_calibration_error() -> None:
    assert fit_quality(_logit(0.25, 0.25, 0.25, 0.25), torch.tensor([0.0, 0.0, 1.0, 0.0]), _logit(0.5, 0.5, 0.5, 0.5))[
        "calibration_error"
    ] == pytest.approx(0.0)


def test_saturation_is_the_share_of_r_within_a_thousandth_of_an_end() -> None:
    r = _logit(0.0005, 0.002, 0.5, 0.998, 0.9995)
    assert fit_quality(r, torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), r)["saturation"] == pytest.approx(0.4)
