import itertools
from collections.abc import Sequence

import pytest

from adhere.errors import OracleError
from adhere.oracles import Oracle, judge


class Says(Oracle):
    """Says what it was told to, and remembers the prompts it was shown."""

    version = "1"

    def __init__(self, *said: float | None, name: str = "says", closed: bool = False, prompt: bool = False) -> None:
        self.said = list(said)
        self.name = name
        self.prefix_closed = closed
        self.judges_prompt = prompt
        self.prompts: list[str] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.prompts = list(prompts)
        return self.said[: len(outputs)]


@pytest.mark.parametrize(
    ("a", "b", "both", "either"),
    [
        (0.2, 0.7, 0.2, 0.7),
        (1.0, 1.0, 1.0, 1.0),
        (0.0, 1.0, 0.0, 1.0),
        (None, 0.0, 0.0, None),  # & is decided: whatever the other says
        (None, 1.0, None, 1.0),  # | is decided
        (None, 0.5, None, None),
        (None, None, None, None),
    ],
)
def test_and_is_the_lesser_or_the_greater_and_no_verdict_only_where_undecided(
    a: float | None, b: float | None, both: float | None, either: float | None
) -> None:
    for x, y in ((a, b), (b, a)):
        assert judge(Says(x) & Says(y), [""], ["text"]) == [both]
        assert judge(Says(x) | Says(y), [""], ["text"]) == [either]


def test_not_turns_a_score_round_and_keeps_no_verdict() -> None:
    assert judge(~Says(0.25, 1.0, None), [""] * 3, ["x"] * 3) == [0.75, 0.0, None]


@pytest.mark.parametrize(("a", "b"), [*itertools.product([True, False], repeat=2)])
def test_a_pair_is_prefix_closed_when_both_are_and_a_negation_never(a: bool, b: bool) -> None:
    assert (Says(closed=a) & Says(closed=b)).prefix_closed == (a and b)
    assert (Says(closed=a) | Says(closed=b)).prefix_closed == (a and b)
    assert not (~Says(closed=a)).prefix_closed


def test_only_the_part_that_asks_for_the_prompt_sees_it() -> None:
    blind, sees = Says(1.0), Says(1.0, prompt=True)
    pair = ~(blind & sees)
    assert pair.judges_prompt
    judge(pair, ["the prompt"], ["text"])
    assert (blind.prompts, sees.prompts) == ([""], ["the prompt"])


def test_names_read_as_they_were_written() -> None:
    a, b, c = (Says(name=name) for name in "abc")
    assert (a & b & c).name == "a & b & c"
    assert ((a | b) & ~c).name == "(a | b) & ~c"
    assert (~(a | b)).name == "~(a | b)"


def test_versions_follow_the_parts_and_the_operation() -> None:
    a, b, other = Says(name="a"), Says(name="b"), Says(name="b")
    other.version = "2"
    versions = [o.version for o in (a & b, a | b, a & other, ~a, ~b)]
    assert len(set(versions)) == len(versions)


def test_a_part_that_breaks_its_contract_is_the_one_named() -> None:
    with pytest.raises(OracleError, match="'broken' must return numbers"):
        judge(Says(1.0, name="fine") & Says(1.7, name="broken"), [""], ["text"])
