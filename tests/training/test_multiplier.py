"""Adaptive λ as arithmetic: which way it moves, how far, when it leaves noise alone, when it gives up."""

from __future__ import annotations

import json
import math

import pytest

from adhere.guidance.constraint import Constraint, DualConfig
from adhere.oracles.rules import RegexOracle
from adhere.training.multiplier import Multipliers, MultiplierState, trusted_error, updated
from adhere.training.satisfaction import Satisfaction

DUAL = DualConfig()


def _path(
    shares: list[float], n: float = 256, target: float = 0.95, dual: DualConfig = DUAL, steps: int = 1000
) -> list[MultiplierState]:
    """After each measurement; by default the policy has followed λ when the next one comes."""
    state, states = MultiplierState.start(2.0), []
    for share in shares:
        state = updated(state, Satisfaction(share, n), target, dual, steps)
        states.append(state)
    return states


def _constraint(**settings: object) -> Constraint:
    return Constraint(RegexOracle("z"), name="no z", **{"multiplier": "dual", "target": 0.9, "weight": 2.0, **settings})  # type: ignore[arg-type]


def test_it_rises_below_the_target_and_falls_above_it() -> None:
    start = math.log(2.0)
    (low,), (high,) = _path([0.7]), _path([1.0])
    assert low.log_multiplier > start > high.log_multiplier


def test_a_certain_error_moves_it_by_the_gain_in_log_odds() -> None:
    (state,) = _path([0.9], n=10**9, dual=DualConfig(gain=0.4))
    error = math.log(0.95 / 0.05) - math.log(0.9 / 0.1)
    assert state.log_multiplier == pytest.approx(math.log(2) + 0.4 * error, abs=1e-6)
    assert state.log_followed == pytest.approx(math.log(2))


def test_what_the_policy_is_still_to_answer_is_not_asked_for_again() -> None:
    dual, n = DualConfig(gain=0.4, lag=10.0), 10**9
    error = math.log(0.95 / 0.05) - math.log(0.9 / 0.1)
    first, second = _path([0.9, 0.9], n=n, dual=dual, steps=5)  # the second finds the policy where it was
    unanswered = 0.4 * error * math.exp(-5 / 10)
    assert second.log_followed == pytest.approx(first.log_multiplier - unanswered, abs=1e-6)
    assert second.log_multiplier - first.log_multiplier == pytest.approx(0.4 * (error - unanswered), abs=1e-6)
    # As far on its way as the lag says: nothing is left to ask for when the rest would bring it to the target.
    coming = 1 / (1 + math.exp(-math.log(0.95 / 0.05) + unanswered))
    still = updated(first, Satisfaction(coming, n), 0.95, dual, 5)
    assert still.log_multiplier == pytest.approx(first.log_multiplier, abs=1e-6)


def test_what_noise_explains_moves_it_less() -> None:
    moves = [abs(trusted_error(Satisfaction(0.93, n), 0.95)) for n in (200, 800, 3200, 10**9)]
    error = math.log(0.95 / 0.05) - math.log(0.93 / 0.07)
    assert moves == sorted(moves)
    assert moves[0] < 0.8 * error and moves[-1] == pytest.approx(error, rel=1e-3)


def test_all_satisfied_and_all_violated_are_numbers_like_others() -> None:
    for share in (0.0, 1.0):
        assert math.isfinite(trusted_error(Satisfaction(share, 64), 0.99))
    assert abs(trusted_error(Satisfaction(1.0, 8), 0.95)) < 0.3  # eight satisfied ones say little


def test_one_measurement_never_moves_it_by_more_than_its_largest_step() -> None:
    (state,) = _path([0.0], n=10**6, target=0.999, dual=DualConfig(gain=1.0, max_step=0.3))
    assert state.log_multiplier == pytest.approx(math.log(2) + 0.3)


def test_it_stays_within_its_bounds_and_leaves_them_at_once() -> None:
    dual = DualConfig(lowest=1.0, highest=4.0)
    up = _path([0.2] * 6, dual=dual)
    assert up[-1].log_multiplier == pytest.approx(math.log(4))
    assert updated(up[-1], Satisfaction(1.0, 256), 0.95, dual, 1000).log_multiplier < math.log(4)
    assert _path([1.0] * 6, dual=dual)[-1].log_multiplier == pytest.approx(0.0)


@pytest.mark.parametrize("lag", [5, 15])
def test_a_policy_that_follows_it_late_is_brought_to_the_target(lag: int) -> None:
    """Log-odds of satisfaction that go, with a lag, to where (c + λ) / (1 − c) puts them; measured every five steps."""
    state, odds, corpus, highest = MultiplierState.start(2.0), math.log(9.0), 0.3, 0.0
    for step in range(200):
        if step % 5 == 0:
            share = 1 / (1 + math.exp(-odds))
            state = updated(state, Satisfaction(share, 10**6), 0.99, DUAL, 5)
        settled = math.log((corpus + math.exp(state.log_multiplier)) / (1 - corpus))
        odds += (settled - odds) / lag
        highest = max(highest, state.log_multiplier)
    needed = math.log(0.99 / 0.01 * (1 - corpus) - corpus)
    assert highest < needed + math.log(1.1)  # 1.45 times at a lag of 15 without m
    assert 1 / (1 + math.exp(-odds)) == pytest.approx(0.99, abs=0.002)


def test_a_target_is_given_up_at_the_highest_when_nothing_gets_better() -> None:
    dual = DualConfig(highest=3.0, patience=3)
    stalled = _path([0.5] * 7, dual=dual)
    assert [state.given_up for state in stalled] == [False] * 4 + [True] * 3  # at its highest from the second one on
    rising = _path([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9], dual=dual)
    assert not any(state.given_up for state in rising)
    reached = _path([0.93] * 9, dual=dual)  # the target lies within the noise of these
    assert not any(state.given_up for state in reached)


def test_a_target_given_up_stays_so_and_stops_unless_told_otherwise() -> None:
    for behaviour, stopped in (("stop", True), ("continue", False)):
        dual = DualConfig(highest=2.5, patience=1, when_unreachable=behaviour)
        multipliers = Multipliers([_constraint(dual=dual)])
        shares = (0.2, 0.2, 0.2, 0.2, 0.9)
        given_up = [multipliers.update("no z", Satisfaction(share, 500), 1000 * n) for n, share in enumerate(shares, 1)]
        assert given_up.count(True) == 1  # told once
        assert multipliers.stopped == stopped


def test_constraints_with_a_weight_of_their_own_stay_at_it() -> None:
    multipliers = Multipliers([_constraint(weight=4.0), Constraint(RegexOracle("a"), weight=0.0, name="no a")])
    multipliers.update("no z", Satisfaction(0.5, 500), 5)
    assert multipliers.values["no a"] == 0.0 and multipliers.ratios["no a"] == 1.0
    assert multipliers.values["no z"] == pytest.approx(4.0 * multipliers.ratios["no z"]) != 4.0


def test_a_measurement_without_a_verdict_leaves_its_steps_to_the_next() -> None:
    constraint = _constraint()
    multipliers = Multipliers([constraint])
    for step, share in ((5, 0.5), (15, 0.8)):  # nothing was to be judged at step 10
        multipliers.update("no z", Satisfaction(share, 500), step)
    state = MultiplierState.start(constraint.weight)
    for steps, share in ((5, 0.5), (10, 0.8)):
        state = updated(state, Satisfaction(share, 500), constraint.target, constraint.dual, steps)
    assert multipliers.values["no z"] == math.exp(state.log_multiplier)


def test_its_state_goes_through_json_and_on_to_the_same_bit() -> None:
    one, other = Multipliers([_constraint()]), Multipliers([_constraint()])
    for step, share in ((5, 0.5), (10, 0.85), (15, 0.97)):
        one.update("no z", Satisfaction(share, 37), step)
    other.load(json.loads(json.dumps(one.state())))
    for each in (one, other):
        each.update("no z", Satisfaction(0.91, 37), 20)
    assert one.values == other.values and one.state() == other.state()
    other.load({})
    assert other.values == pytest.approx({"no z": 2.0})


@pytest.mark.parametrize(
    ("share", "n", "verdict", "said"),
    [
        (0.93, 400, "reached", "target 0.9 of no z reached: satisfaction 0.930"),
        (0.895, 4000, "reached", "reached"),  # by less than the tolerance below it
        (0.80, 400, "not reached", r"target 0.9 of no z not reached: satisfaction 0.800 (0.758 to 0.836, n = 400)"),
        (0.85, 40, "undecided", "is not decided: too few outputs to tell"),
    ],
)
def test_the_verdict_tells_a_miss_from_too_few_outputs(share: float, n: int, verdict: str, said: str) -> None:
    multipliers, measured = Multipliers([_constraint()]), Satisfaction(share, n)
    assert multipliers.verdict("no z", measured) == verdict
    assert said in multipliers.sentence("no z", measured) and "λ = 2" in multipliers.sentence("no z", measured)
