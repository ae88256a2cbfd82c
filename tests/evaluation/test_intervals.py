import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from adhere.evaluation.intervals import bootstrap, bootstrap_mean, jackknife, rate, ratio_of_totals, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    value, got_low, got_high = wilson(successes, n)
    assert value == successes / n
    assert (got_low, got_high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_stays_in_the_unit_interval_and_holds_the_rate(counts):
    value, low, high = wilson(*counts)
    assert 0.0 <= low <= value <= high <= 1.0 and low < high


def test_wilson_covers_the_true_rate_about_as_often_as_it_says():
    # Exact, not simulated: the probability of every outcome whose interval holds the truth.
    for truth in (0.05, 0.1, 0.3, 0.5, 0.9):
        outcomes = [wilson(k, 60) for k in range(61)]
        covered = sum(binom.pmf(k, 60, truth) for k, (_, low, high) in enumerate(outcomes) if low <= truth <= high)
        assert 0.92 < covered < 0.99


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_counts_that_cannot_be(successes, n):
    with pytest.raises(ValueError, match=f"{successes} of {n}"):
        wilson(successes, n)


def test_bootstrap_mean_weighs_every_value_alike_and_ignores_empty_groups():
    value, low, high = bootstrap_mean([[1.0, 1.0, 1.0], [], [0.0]])
    assert value == 0.75
    assert low == 0.0 and high == 1.0  # both prompts the same one: a quarter of the resamples each


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly_the_same():
    values = np.random.default_rng(0).random((80, 3)).tolist()
    first, again, other = bootstrap_mean(values, seed=1), bootstrap_mean(values, seed=1), bootstrap_mean(values, seed=2)
    assert first == again and first != other
    assert first == pytest.approx(other, abs=0.01)


def test_bootstrap_over_prompts_is_wider_than_if_outputs_were_independent():
    prompts = [[bool(index % 4 == 0)] * 10 for index in range(80)]  # ten copies of one verdict a prompt
    clustered, _ = rate(prompts)
    _, low, high = wilson(200, 800)
    assert clustered.high - clustered.low > 2.5 * (high - low)
    assert clustered == pytest.approx(wilson(20, 80), abs=0.02)


def test_bootstrap_covers_the_true_mean_of_grouped_values_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        prompts = generator.beta(1, 3, size=100)  # each prompt has a rate of its own, 1/4 on average
        outputs = generator.random((100, 4)) < prompts[:, None]
        _, low, high = bootstrap_mean(outputs.tolist(), seed=trial, resamples=300)
        covered += low <= 0.25 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_memory_is_bounded_and_pieces_do_not_change_its_size(monkeypatch):
    monkeypatch.setattr("adhere.evaluation.intervals._CELLS", 64)
    sums = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    sizes = []

    def statistic(totals):
        sizes.append(len(totals))
        return ratio_of_totals(totals)

    assert bootstrap(sums, statistic, resamples=25).value == 4 / 7
    assert sizes == [1, 10, 10, 5]


def test_every_resample_has_as_many_groups_as_there_are():
    assert bootstrap(np.ones((7, 1)), lambda totals_SK: totals_SK[:, 0]) == (7.0, 7.0, 7.0)


def test_one_prompt_alone_has_no_interval():
    assert bootstrap_mean([[0.0, 1.0]]) == (0.5, None, None)
    assert jackknife(0.3, np.array([0.0])) == (0.3, None, None)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    left_out = (values.sum() - values) / 3
    reach = 1.959964 * values.std(ddof=1) / 2
    assert jackknife(values.mean(), left_out) == pytest.approx((3.5, 3.5 - reach, 3.5 + reach), rel=1e-6)


def test_one_output_a_prompt_gets_wilson_and_several_a_bootstrap():
    assert rate([[True], [False], [False], []]) == (wilson(1, 3), "wilson")
    assert rate([[True, False], [False]])[1] == "bootstrap over prompts"


@pytest.mark.parametrize("event", [True, False])
def test_unanimous_outputs_still_have_a_width(event):
    estimate, method = rate([[event] * 5] * 20)
    assert method == "wilson over prompts"
    assert estimate == wilson(20 * event, 20)
    assert estimate.low < estimate.high


def test_nothing_to_average_is_an_error_not_a_zero():
    with pytest.raises(ValueError, match="at least one output"):
        rate([[], []])
    with pytest.raises(ValueError, match="at least one group"):
        bootstrap_mean([])
