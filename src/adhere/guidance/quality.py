"""How good a fitted NADO is, on sequences it was not fitted to."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def fit_quality(logit_N: Tensor, score_N: Tensor, value_N: Tensor, weight_N: Tensor | None = None) -> dict[str, float]:
    """Ranking, calibration and saturation of R at every output token.

    Args:
        logit_N: logit of R after each token, told from the prefix before it.
        score_N: the oracle's score of the whole output the token is in.
        value_N: logit of R after each token, told from the prefix with it.
        weight_N: how much each counts, on any scale: the importance weight of the output it is in; None weighs all alike.

    Returns:
        auc: ROC-AUC of R against the final label (0.5 where all labels are equal); value_auc: the same of the value;
        calibration_error: expected calibration error over ten equal-width bins, a probability;
        saturation: share of R outside (0.001, 0.999): a NADO that is all saturated can guide nothing;
        certain: share of R above 0.999.
    """
    r, score = logit_N.double().sigmoid().numpy(), score_N.double().numpy()
    satisfied = score >= 0.5
    weight = np.ones(len(r)) if weight_N is None else weight_N.double().numpy()
    return {
        "auc": _auc(logit_N.double().numpy(), satisfied, weight),
        "value_auc": _auc(value_N.double().numpy(), satisfied, weight),
        "calibration_error": _calibration_error(r, score, weight),
        "saturation": float(np.average((r < 0.001) | (r > 0.999), weights=weight)) if len(r) else 0.0,
        "certain": float(np.average(r > 0.999, weights=weight)) if len(r) else 0.0,
    }


def _auc(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return 0.5
    return float(roc_auc_score(positive, score, sample_weight=weight))


def _calibration_error(r: np.ndarray, score: np.ndarray, weight: np.ndarray, bins: int = 10) -> float:
    bin_of = np.minimum((r * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = bin_of == b
        error += abs(np.sum(weight[inside] * (r[inside] - score[inside])))
    return float(error / weight.sum()) if len(r) else 0.0
