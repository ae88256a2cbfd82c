import pytest

from adhere.evaluation.seeds import over_seeds
from adhere.records import Measurement


def of(value: float, low: float | None, high: float | None, seed: str) -> Measurement:
    return Measurement("violation_rate", value, low, high, n=100, tags={"seed": seed, "method": "sft"})


def test_the_mean_lies_within_the_span_of_all_intervals():
    mean = over_seeds([of(0.2, 0.1, 0.3, "0"), of(0.3, 0.15, 0.5, "1")])
    assert (mean.value, mean.low, mean.high, mean.n) == (0.25, 0.1, 0.5, 200)
    assert mean.tags == {"method": "sft", "seeds": "0, 1", "spread": "0.1"}


def test_a_seed_without_an_interval_leaves_the_mean_without_one():
    mean = over_seeds([of(0.2, 0.1, 0.3, "0"), of(0.3, None, None, "1")])
    assert (mean.low, mean.high) == (None, None)


def test_measures_are_not_mixed():
    with pytest.raises(ValueError, match="one measure"):
        over_seeds([of(0.2, 0.1, 0.3, "0"), Measurement("emt", 0.2)])
    with pytest.raises(ValueError, match="got none"):
        over_seeds([])
