"""Area under the ROC curve with DeLong's interval.

    AUC = P(score of a positive > score of a negative) + ½ P(they are equal)

DeLong, DeLong and Clarke-Pearson (Biometrics 1988) take the variance from how much each row alone contributes; the
midranks of Sun and Xu (IEEE Signal Processing Letters 2014) make that n log n instead of every pair.

Axes: `P` positives, `N` negatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from adhere.errors import CorpusError
from adhere.evaluation.intervals import CONFIDENCE, Estimate, Floats, wilson


def roc_auc(scores: Sequence[float], labels: Sequence[bool], confidence: float = CONFIDENCE) -> Estimate:
    """The area and its interval.

    The interval is normal on the logit scale, so that it stays within [0, 1] and leans the right way near its ends. Where
    every positive is above every negative, or all scores are equal, the variance is 0 and says nothing: then Wilson's
    interval of as many tries as there are rows of the rarer label: wider than it needs to be, never certain by accident.
    A single row of one label gives no interval.

    Args:
        scores: higher means rather positive; finite.
        labels: True for positives.

    Raises:
        ValueError: the two differ in length, or a score is not finite.
        CorpusError: there is no positive, or no negative.
    """
    positive_P, negative_N = _placements(scores, labels)
    area = float(positive_P.mean())
    rows = min(len(positive_P), len(negative_N))
    if rows < 2:
        return Estimate(area, None, None)
    variance = positive_P.var(ddof=1) / len(positive_P) + negative_N.var(ddof=1) / len(negative_N)
    if variance == 0:
        _, low, high = wilson(round(area * rows), rows, confidence)
        return Estimate(area, low, high)
    # The derivative of the logit is 1 / (a (1 − a)).
    reach = float(ndtri((1 + confidence) / 2)) * float(np.sqrt(variance)) / (area * (1 - area))
    logit = float(np.log(area / (1 - area)))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (logit - reach, logit + reach))
    return Estimate(area, low, high)


def _placements(scores: Sequence[float], labels: Sequence[bool]) -> tuple[Floats, Floats]:
    """For each positive the share of negatives it beats, for each negative the share of positives that beat it."""
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores for {len(labels)} labels")
    values, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite")
    positives, negatives = values[is_positive], values[~is_positive]
    if not len(positives) or not len(negatives):
        raise CorpusError(
            f"ROC-AUC needs rows of both labels; got {len(positives)} positive and {len(negatives)} negative"
        )
    together = rankdata(np.concatenate([positives, negatives]))
    count = len(positives)
    positive_P = (together[:count] - rankdata(positives)) / len(negatives)
    negative_N = 1 - (together[count:] - rankdata(negatives)) / count
    return positive_P, negative_N
