from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from adhere.evaluation.compare import perplexity_ratio, rate_ratio
from adhere.evaluation.contrast import UNPAIRED, contrast, difference_of_intervals, mcnemar, ratio_of_intervals
from adhere.evaluation.intervals import Estimate, wilson
from adhere.evaluation.parts import DistinctParts, Parts
from adhere.evaluation.perplexity import TokenLosses
from adhere.evaluation.satisfaction import violation_rate
from adhere.records import Measurement


def scores(violating: list[bool], per_prompt: int = 1) -> list[list[float]]:
    return [[0.0 if each else 1.0] * per_prompt for each in violating]


def parts(given: list[list[float]]) -> Parts:
    return Parts(np.array([(sum(s < 0.5 for s in group), len(group)) for group in given], dtype=np.float64))


def by_chance(rate: float, n: int = 200, seed: int = 0) -> list[bool]:
    return [bool(hit) for hit in np.random.default_rng(seed).random(n) < rate]


def of(above: list[list[float]], below: list[list[float]]) -> dict[str, Measurement]:
    made = contrast(violation_rate(above), violation_rate(below), (parts(above), parts(below)))
    return {each.name.removeprefix("violation_rate_"): each for each in made}


def test_difference_and_ratio_have_intervals_round_them_and_agree_with_the_paired_ratio():
    above, below = scores(by_chance(0.1)), scores(by_chance(0.4, seed=1))
    made = of(above, below)
    rates = [np.mean([s[0] < 0.5 for s in each]) for each in (above, below)]
    assert made["difference"].value == pytest.approx(rates[0] - rates[1])
    assert made["difference"].low < made["difference"].value < made["difference"].high < 0
    theirs = rate_ratio(above, below)
    assert (made["ratio"].value, made["ratio"].low, made["ratio"].high) == pytest.approx(
        (theirs.value, theirs.low, theirs.high)
    )
    assert made["difference"].tags["interval"] == "paired bootstrap over prompts"


def test_pairs_make_the_difference_surer_than_two_intervals_do():
    hard = by_chance(0.4)
    above, below = scores(hard), scores([h or place % 10 == 0 for place, h in enumerate(hard)])
    paired = of(above, below)["difference"]
    apart = contrast(violation_rate(above), violation_rate(below), None)[0]
    assert apart.tags["interval"] == UNPAIRED
    assert apart.value == paired.value
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)
    assert "p" not in apart.tags


def test_one_output_a_prompt_is_tested_by_mcnemars_exact_test():
    above, below = scores([True] * 3 + [False] * 97), scores([False] * 3 + [True] * 12 + [False] * 85)
    made = of(above, below)["difference"]
    assert made.tags["test"] == "McNemar, exact"
    assert float(made.tags["p"]) == pytest.approx(binomtest(3, 15, 0.5).pvalue, rel=0.01)


def test_prompts_without_a_verdict_take_no_part_in_the_test():
    one, other = Parts(np.array([[1, 1], [0, 0], [1, 1]])), Parts(np.array([[0, 1], [0, 1], [0, 0]]))
    assert mcnemar(one, other) == 1.0  # a single discordant pair
    assert mcnemar(other, other) == 1.0  # and none at all


def test_several_outputs_a_prompt_are_tested_by_the_bootstrap_and_p_is_never_zero():
    above, below = scores(by_chance(0.05), 2), scores(by_chance(0.6, seed=1), 2)
    made = of(above, below)["difference"]
    assert made.tags["test"] == "paired bootstrap"
    assert 0 < float(made.tags["p"]) <= 0.001
    alike = of(scores(by_chance(0.3), 2), scores(by_chance(0.3, seed=5), 2))["difference"]
    assert float(alike.tags["p"]) > 0.05


def test_a_model_that_never_violates_gets_no_certainty_from_resampling():
    made = of(scores([False] * 100), scores([True] * 30 + [False] * 70))
    assert made["difference"].tags["interval"] == UNPAIRED
    assert made["difference"].high > -0.3 + 0.01
    assert made["ratio"].value == 0.0
    assert made["ratio"].high == pytest.approx(wilson(0, 100)[2] / wilson(30, 100)[1])


def test_there_is_no_ratio_to_zero():
    assert set(of(scores([True] * 5 + [False] * 5), scores([False] * 10))) == {"difference"}


def test_perplexities_are_paired_text_by_text():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, size=100)
    below_N = tokens * generator.normal(3.4, 0.5, size=100)
    above_N = below_N + tokens * generator.normal(0.01, 0.02, size=100)
    made = contrast(
        Measurement("clean_perplexity", float(np.exp(above_N.sum() / tokens.sum())), 1.0, 99.0),
        Measurement("clean_perplexity", float(np.exp(below_N.sum() / tokens.sum())), 1.0, 99.0),
        tuple(Parts(np.stack([nats, tokens], axis=1), "texts", is_exponential=True) for nats in (above_N, below_N)),
    )
    theirs = perplexity_ratio(TokenLosses(above_N, tokens), TokenLosses(below_N, tokens))
    assert (made[1].value, made[1].low, made[1].high) == pytest.approx((theirs.value, theirs.low, theirs.high))
    assert made[0].low < made[0].value < made[0].high
    assert made[0].tags["interval"] == "paired bootstrap over texts"


def test_distinct_n_is_paired_by_the_jackknife():
    one, other = DistinctParts(0.6, np.array([0.59, 0.6, 0.61])), DistinctParts(0.5, np.array([0.49, 0.5, 0.51]))
    difference, ratio = contrast(Measurement("distinct_2", 0.6), Measurement("distinct_2", 0.5), (one, other))
    assert (difference.low, difference.value, difference.high) == pytest.approx((0.1, 0.1, 0.1))  # the same in both
    assert ratio.value == pytest.approx(1.2) and ratio.low < 1.2 < ratio.high


def test_the_interval_of_a_difference_of_intervals_is_as_zou_and_donner_have_it():
    made = difference_of_intervals(Estimate(0.3, 0.2, 0.42), Estimate(0.1, 0.06, 0.16))
    assert made == pytest.approx((0.2, 0.2 - np.hypot(0.1, 0.06), 0.2 + np.hypot(0.12, 0.04)))
    assert difference_of_intervals(Estimate(0.3, None, None), Estimate(0.1, 0.0, 0.2))[1:] == (None, None)


def test_the_interval_of_a_ratio_of_intervals_is_never_infinite():
    assert ratio_of_intervals(Estimate(0.3, 0.2, 0.4), Estimate(0.1, 0.0, 0.2))[1:] == (None, None)
    low, high = ratio_of_intervals(Estimate(0.3, 0.0, 0.4), Estimate(0.1, 0.05, 0.2))[1:]
    assert low == 0.0 and 3.0 < high < 8.0


def test_what_is_not_a_pair_is_refused():
    with pytest.raises(ValueError, match="got 2 and 3"):
        contrast(
            Measurement("violation_rate", 0.1),
            Measurement("violation_rate", 0.2),
            (Parts(np.ones((2, 2))), Parts(np.ones((3, 2)))),
        )
