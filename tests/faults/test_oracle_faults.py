"""Faults of earlier code and of other people's oracles (method.md §7): each has its name here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from adhere.errors import OracleError
from adhere.oracles import CallableOracle, Oracle, judge, verdicts, violates


class Recorder(Oracle):
    """Satisfied with everything; remembers what it was shown."""

    name = "recorder"
    version = "1"

    def __init__(self) -> None:
        self.shown: list[tuple[list[str], list[str]]] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.shown.append((list(prompts), list(outputs)))
        return [1.0] * len(outputs)


def test_an_oracle_is_shown_whole_outputs_and_not_their_characters() -> None:
    recorder = Recorder()
    judge(recorder, ["", ""], ["two words", "one"])
    assert recorder.shown == [(["", ""], ["two words", "one"])]


def test_a_text_in_place_of_a_list_of_outputs_is_refused() -> None:
    with pytest.raises(TypeError):
        judge(Recorder(), [""] * 5, "idiot")


def test_the_prompt_is_not_judged_unless_the_oracle_asks_for_it() -> None:
    recorder = Recorder()
    judge(recorder, ["an obscene prompt"], ["a clean output"])
    assert recorder.shown == [([""], ["a clean output"])]
    recorder.judges_prompt = True
    judge(recorder, ["an obscene prompt"], ["a clean output"])
    assert recorder.shown[1] == (["an obscene prompt"], ["a clean output"])


def test_a_failure_to_judge_is_never_satisfied() -> None:
    oracle = CallableOracle(lambda outputs: [None if output == "a" else 1.0 for output in outputs])
    assert [verdict.score for verdict in verdicts(oracle, ["", ""], ["a", "b"])] == [None, 1.0]
    assert judge(oracle | oracle, ["", ""], ["a", "b"]) == [None, 1.0]
    assert judge(~oracle, ["", ""], ["a", "b"]) == [None, 0.0]


def test_an_oracle_that_raises_is_named_with_what_it_raised() -> None:
    def broken(outputs: list[str]) -> list[float]:
        raise ConnectionError("service away")

    with pytest.raises(OracleError, match=r"oracle 'broken' raised ConnectionError: service away.* returns None"):
        judge(CallableOracle(broken), [""], ["text"])


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ([1.0], "got 1 scores"),
        ([1.0] * 3, "got 3 scores"),
        (1.0, "got a float"),
        (None, "got a NoneType"),
        ("11", "got a str"),
    ],
)
def test_an_oracle_that_returns_the_wrong_count_is_refused(returned: object, got: str) -> None:
    with pytest.raises(OracleError, match=f"oracle 'function' must return a list of 2 scores, one per output; {got}"):
        judge(CallableOracle(lambda outputs: returned, name="function"), ["", ""], ["a", "b"])  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("number", [1.7, -0.1, math.nan, math.inf, "high", [1.0]])
def test_a_score_that_is_no_number_between_0_and_1_is_refused(number: object) -> None:
    oracle = CallableOracle(lambda outputs: [1.0, number], name="function")  # type: ignore[list-item]
    with pytest.raises(
        OracleError, match=r"oracle 'function' must return numbers in \[0, 1\].* for the output 'the second"
    ):
        judge(oracle, ["", ""], ["the first", "the second"])


def test_a_half_is_satisfied_and_less_is_a_violation() -> None:
    assert not violates(0.5)
    assert violates(0.4999)
