"""The measurement that an adaptive λ follows."""

from __future__ import annotations

import math

import pytest

from adhere.records import LabelledSample, Sample, Verdict
from adhere.training.satisfaction import measure


def _labelled(scores: list[float | None], importance: list[float] | None = None) -> list[LabelledSample]:
    weights = importance or [0.0] * len(scores)
    return [
        LabelledSample(Sample(i, 0, f"p{i}", "o", (1,), (2,), True, -1.0, weight), {"c": Verdict(score)})
        for i, (score, weight) in enumerate(zip(scores, weights, strict=True))
    ]


def test_the_share_is_of_the_outputs_with_a_verdict() -> None:
    measured = measure("c", _labelled([1.0, 0.0, 1.0, None, 0.4]))
    assert measured is not None
    assert (measured.share, measured.n, measured.without_verdict) == (0.5, 4.0, 1)
    assert measure("c", _labelled([None])) is None and measure("c", []) is None


def test_outputs_of_a_truncated_policy_count_by_their_importance_and_are_worth_fewer() -> None:
    samples = _labelled([1.0, 0.0, 1.0], [math.log(3.0), 0.0, -700.0])
    measured, plain = measure("c", samples), measure("c", samples, weighted=False)
    assert measured is not None and plain is not None
    assert measured.share == pytest.approx(3 / 4)
    assert measured.n == pytest.approx(16 / 10)  # (3 + 1)² / (9 + 1)
    assert (plain.share, plain.n) == (pytest.approx(2 / 3), 3.0)
    shifted = measure("c", _labelled([1.0, 0.0, 1.0], [math.log(3.0) - 900, -900.0, -1600.0]))
    assert shifted is not None and shifted.share == pytest.approx(3 / 4)
