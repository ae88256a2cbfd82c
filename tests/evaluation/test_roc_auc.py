"""ROC-AUC and DeLong's variance, against every pair written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from sklearn.metrics import roc_auc_score

from adhere.errors import CorpusError
from adhere.evaluation.roc_auc import roc_auc


def _by_pairs(scores: list[float], labels: list[bool]) -> tuple[float, float]:
    """The area, and DeLong's variance of it, from the comparison of every positive with every negative."""
    positives = [score for score, label in zip(scores, labels, strict=True) if label]
    negatives = [score for score, label in zip(scores, labels, strict=True) if not label]
    wins = np.array([[(p > n) + (p == n) / 2 for n in negatives] for p in positives])
    area = wins.mean()
    spread = [wins.mean(axis=axis).var(ddof=1) / wins.shape[1 - axis] for axis in (0, 1)]
    return float(area), float(sum(spread))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=40))
def test_area_and_interval_are_those_of_every_pair(rows: list[tuple[int, bool]]) -> None:
    scores, labels = [float(score) for score, _ in rows], [label for _, label in rows]
    if min(sum(labels), len(labels) - sum(labels)) < 2:
        return
    area, variance = _by_pairs(scores, labels)
    found = roc_auc(scores, labels)
    assert found.value == pytest.approx(area)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    if variance > 1e-12:
        reach = float(ndtri(0.975)) * math.sqrt(variance) / (area * (1 - area))
        logit = math.log(area / (1 - area))
        ends = [1 / (1 + math.exp(-end)) for end in (logit - reach, logit + reach)]
        assert [found.low, found.high] == pytest.approx(ends)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth = 0.7602499  # P(N(1, 1) > N(0, 1)) = Φ(1 / √2)
    covered = 0
    for _ in range(400):
        scores = np.concatenate([generator.normal(1, 1, 40), generator.normal(0, 1, 60)])
        found = roc_auc(scores.tolist(), [True] * 40 + [False] * 60)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("scores", "value"), [([3.0, 4.0, 1.0, 2.0], 1.0), ([1.0, 2.0, 3.0, 4.0], 0.0), ([5.0] * 4, 0.5)]
)
def test_without_variance_the_interval_is_wide_and_never_certain(scores: list[float], value: float) -> None:
    found = roc_auc(scores, [True, True, False, False])
    assert found.value == value
    assert found.low is not None and found.high is not None
    assert found.high - found.low > 0.5


def test_one_row_of_a_label_gives_no_interval() -> None:
    assert roc_auc([1.0, 2.0, 3.0], [True, False, False])[1:] == (None, None)


def test_what_has_no_area_is_refused() -> None:
    with pytest.raises(CorpusError, match="0 positive and 2 negative"):
        roc_auc([1.0, 2.0], [False, False])
    with pytest.raises(ValueError, match="not finite"):
        roc_auc([1.0, math.nan], [False, True])
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        roc_auc([1.0, 2.0], [False])
