import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adhere.errors import OracleError
from adhere.evaluation.intervals import wilson
from adhere.evaluation.satisfaction import scores_by_prompt, violation_rate
from adhere.records import LabelledSample, Sample, Verdict


def labelled(prompt_index: int, replicate: int, score: float | None) -> LabelledSample:
    sample = Sample(prompt_index, replicate, "p", "o", (1,), (2,), True, -1.0)
    return LabelledSample(sample, {"clean": Verdict(score)})


def test_one_output_a_prompt_is_reported_with_wilson():
    measured = violation_rate([[0.1], [0.9], [0.5], [1.0]])
    assert (measured.value, measured.low, measured.high) == wilson(1, 4)  # exactly 0.5 is satisfied
    assert measured.n == 4
    assert measured.tags == {"interval": "wilson", "prompts": "4", "no_verdict": "0"}


def test_several_outputs_a_prompt_are_reported_with_a_bootstrap_over_prompts():
    measured = violation_rate([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]] * 10, name="judge_violation_rate")
    assert measured.name == "judge_violation_rate"
    assert measured.value == 0.375 and measured.n == 80
    assert measured.tags["interval"] == "bootstrap over prompts" and measured.tags["prompts"] == "40"
    assert 0.2 < measured.low < 0.375 < measured.high < 0.55


def test_an_unjudged_output_is_never_counted_as_satisfied():
    measured = violation_rate([[0.0], [None], [1.0], [None]])
    assert measured.value == 0.5  # one of the two that were judged, not one of four
    assert measured.n == 2
    assert measured.tags["no_verdict"] == "2"
    several = violation_rate([[0.0, None, None], [None, None, None], [0.0, 1.0, None]])
    assert several.value == pytest.approx(2 / 3) and several.n == 3
    assert several.tags["no_verdict"] == "6" and several.tags["prompts"] == "2"


@given(st.lists(st.lists(st.none() | st.floats(0, 1), max_size=4), max_size=12), st.integers(0, 5), st.randoms())
def test_unjudged_outputs_change_nothing_but_their_count(scores, extra, random):
    if not any(score is not None for of_prompt in scores for score in of_prompt):
        return
    more = [list(of_prompt) for of_prompt in scores]
    for _ in range(extra):
        random.choice(more).append(None)
    before, after = violation_rate(scores), violation_rate(more)
    assert (after.value, after.low, after.high, after.n) == (before.value, before.low, before.high, before.n)
    assert int(after.tags["no_verdict"]) == int(before.tags["no_verdict"]) + extra


def test_a_judge_that_never_answers_is_an_error_not_a_rate():
    with pytest.raises(OracleError, match="no verdict on any of the 3 outputs"):
        violation_rate([[None], [None, None]])


@pytest.mark.parametrize("score", [math.nan, -0.1, 1.7])
def test_a_score_that_is_no_score_is_refused_rather_than_taken_for_satisfied(score):
    with pytest.raises(ValueError, match="a score must be a number in"):
        violation_rate([[1.0], [score]])


def test_scores_are_grouped_by_prompt_in_the_order_of_their_index():
    completions = [labelled(7, 1, 0.0), labelled(3, 0, None), labelled(7, 0, 1.0)]
    assert scores_by_prompt(completions, "clean") == [[None], [1.0, 0.0]]
