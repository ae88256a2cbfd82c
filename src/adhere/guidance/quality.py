"""How good a fitted NADO is, on sequences it was not fitted to."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def fit_quality(logit_N: Tensor, score_N: Tensor, value_N: Tensor) -> dict[str, float]:
    """Ranking, calibration and saturation of R at every output token.

    Args:
        logit_N: logit of R after each token, told from the prefix before it.
        score_N: the oracle's score of the whole output the token is in.
        value_N: logit of R after each token, told from the prefix with it.

    Returns:
        auc: ROC-AUC of R against the final label (0.5 where all labels are equal); value_auc: the same of the value;
        calibration_error: expected calibration error over ten equal-width bins, a probability;
        saturation: share of R outside (0.001, 0.999): a NADO that is all saturated can guide nothing.
    """
    r, score = logit_N.double().sigmoid().numpy(), score_N.double().numpy()
    satisfied = score >= 0.5
    return {
        "auc": _auc(logit_N.double().numpy(), satisfied),
        "value_auc": _auc(value_N.double().numpy(), satisfied),
        "calibration_error": _calibration_error(r, score),
        "saturation": float(np.mean((r < 0.001) | (r > 0.999))),
    }


def _auc(score: np.ndarray, positive: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return 0.5
    return float(roc_auc_score(positive, score))


def _calibration_error(r: np.ndarray, score: np.ndarray, bins: int = 10) -> float:
    bin_of = np.minimum((r * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        inside = bin_of == b
        if inside.any():
            error += inside.mean() * abs(r[inside].mean() - score[inside].mean())
    return float(error)
