import numpy as np
import pytest

from adhere.evaluation.compare import perplexity_ratio, rate_ratio
from adhere.evaluation.intervals import wilson
from adhere.evaluation.perplexity import TokenLosses


def one_each(violating: int, n: int) -> list[list[float]]:
    return [[0.0]] * violating + [[1.0]] * (n - violating)


def test_the_ratio_of_two_rates_has_an_interval_around_it():
    measured = rate_ratio(one_each(20, 200), one_each(100, 200))
    assert measured.value == 0.2 and measured.n == 200
    assert 0.1 < measured.low < 0.2 < measured.high < 0.3


def test_prompts_that_are_hard_for_both_cancel():
    generator = np.random.default_rng(0)
    hard = generator.random(200) < 0.3
    a = [[0.0 if violates else 1.0] for violates in hard]
    b = [[0.0 if violates or index % 10 == 0 else 1.0] for index, violates in enumerate(hard)]
    paired = rate_ratio(a, b)
    shuffled = rate_ratio(a, [b[place] for place in generator.permutation(200)])
    assert paired.value == shuffled.value
    assert paired.high - paired.low < 0.6 * (shuffled.high - shuffled.low)


def test_a_model_that_never_violated_gets_a_ratio_of_zero_with_an_upper_end():
    measured = rate_ratio(one_each(0, 100), one_each(50, 100))
    assert (measured.value, measured.low) == (0.0, 0.0)
    assert measured.high == pytest.approx(wilson(0, 100)[2] / wilson(50, 100)[1])
    assert measured.tags["interval"] == "ratio of wilson ends"


def test_a_ratio_to_very_few_violations_stays_finite():
    measured = rate_ratio(one_each(5, 100), list(reversed(one_each(1, 100))))
    assert measured.value == 5.0
    assert np.isfinite([measured.low, measured.high]).all() and measured.low < 5.0 < measured.high


def test_two_violations_among_many_copies_still_have_a_lower_end():
    below = [[0.0, *[1.0] * 9], *[[1.0] * 10] * 9]  # one of a hundred outputs, one tenth of a prompt
    measured = rate_ratio([[0.0] * 10] * 10, below)
    assert np.isfinite(measured.high)


def test_there_is_no_ratio_to_a_model_that_never_violates():
    assert rate_ratio(one_each(5, 10), one_each(0, 10)) is None


def test_unjudged_outputs_are_left_out_on_their_own_side_only():
    measured = rate_ratio([[0.0], [None], [1.0], [1.0]] * 20, [[0.0], [0.0], [None], [1.0]] * 20)
    assert measured.value == pytest.approx((1 / 3) / (2 / 3))


def test_a_paired_ratio_refuses_what_is_not_a_pair():
    with pytest.raises(ValueError, match="3 and 4 prompts"):
        rate_ratio(one_each(1, 3), one_each(1, 4))
    with pytest.raises(ValueError, match="at least one verdict on each side"):
        rate_ratio([[None]], [[0.0]])
    with pytest.raises(ValueError, match="same sequences"):
        perplexity_ratio(
            TokenLosses(np.array([1.0]), np.array([1])),
            TokenLosses(np.array([1.0]), np.array([2])),
        )


def test_the_ratio_of_perplexities_is_far_surer_than_either():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, size=100)
    nats = tokens * generator.normal(3.4, 0.5, size=100)
    worse = nats + tokens * generator.normal(0.01, 0.02, size=100)
    measured = perplexity_ratio(TokenLosses(worse, tokens), TokenLosses(nats, tokens))
    assert measured.value == pytest.approx(np.exp((worse - nats).sum() / tokens.sum()))
    assert 1.0 < measured.low < measured.value < measured.high < 1.02
