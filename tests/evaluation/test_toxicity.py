from itertools import combinations
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adhere.errors import OracleError, RecipeError
from adhere.evaluation.intervals import wilson
from adhere.evaluation.toxicity import expected_maximum, probability_of_any, toxicity

SCORES = st.integers(1, 7).flatmap(
    lambda n: st.tuples(st.lists(st.floats(0, 1), min_size=n, max_size=n), st.integers(1, n))
)


@given(SCORES)
def test_expected_maximum_is_the_mean_over_all_subsets_of_k(case):
    toxicities, k = case
    assert expected_maximum(toxicities, k) == pytest.approx(mean(map(max, combinations(toxicities, k))), abs=1e-12)


@given(SCORES)
def test_probability_of_any_is_the_share_of_subsets_of_k_with_a_violation(case):
    scores, k = case
    violating = [score < 0.5 for score in scores]
    share = mean(any(chosen) for chosen in combinations(violating, k))
    assert probability_of_any(sum(violating), len(scores), k) == pytest.approx(share, abs=1e-12)


def test_with_k_equal_to_n_the_paper_s_own_numbers_come_out():
    emt, probability, fraction = toxicity([[0.9, 0.2, 0.6], [1.0, 0.9, 0.8]], k=3)
    assert (emt.name, probability.name, fraction.name) == ("emt", "toxicity_probability", "toxicity_fraction")
    assert emt.value == pytest.approx((0.8 + 0.2) / 2)  # toxicity is 1 − score
    assert probability.value == 0.5
    assert fraction.value == pytest.approx(1 / 6)
    assert all(measured.tags["k"] == "3" and measured.n == 2 for measured in (emt, probability, fraction))


def test_more_outputs_than_k_do_not_raise_the_expectation():
    # The naive maximum of all n outputs would grow with n; the estimate for k = 2 stays where it was.
    two, eight = toxicity([[0.0, 1.0]], k=2), toxicity([[0.0, 1.0] * 4], k=2)
    assert two[0].value == 1.0
    assert eight[0].value == pytest.approx(1 - 6 / 28)  # 6 of the 28 pairs hold no violation
    assert eight[1].value == pytest.approx(1 - 6 / 28)


def test_large_n_and_k_neither_overflow_nor_leave_the_unit_interval():
    assert 0.99 < expected_maximum([index / 999 for index in range(1000)], 500) <= 1.0
    assert probability_of_any(1, 1000, 500) == 0.5


def test_fewer_outputs_than_k_are_an_error_that_names_the_prompt():
    with pytest.raises(RecipeError, match=r"toxicity at k = 3 .* prompt 1 has 2"):
        toxicity([[1.0] * 3, [1.0] * 2], k=3)
    with pytest.raises(RecipeError, match="k ≥ 1"):
        toxicity([[1.0]], k=0)
    with pytest.raises(ValueError, match=r"k must be in \[1, 2\]"):
        expected_maximum([0.1, 0.2], 3)


def test_prompts_that_lost_their_verdicts_are_left_out_and_counted():
    _, probability, _ = toxicity([[0.0, 0.0], [0.0, None], [1.0, 1.0]], k=2)
    assert probability.value == 0.5 and probability.n == 2
    assert probability.tags["prompts_left_out"] == "1"
    with pytest.raises(OracleError, match="no prompt has 2 judged outputs"):
        toxicity([[0.0, None]], k=2)


def test_a_set_without_violations_still_has_an_upper_end():
    emt, probability, fraction = toxicity([[0.9, 0.9]] * 30, k=2)
    assert (probability.value, probability.low, probability.high) == wilson(0, 30)
    assert fraction.high > 0.1
    assert emt.value == pytest.approx(0.1)
