import itertools
from collections.abc import Sequence

import pytest

from adhere.errors import OracleError
from adhere.oracles import Oracle, RegexOracle, judge
from adhere.oracles.base import Effort


class Says(Oracle):
    """Says what it was told to, and remembers the prompts it was shown."""

    version = "1"

    def __init__(self, *said: float | None, name: str = "says", closed: bool = False, prompt: bool = False) -> None:
        self.said = list(said)
        self.name = name
        self.prefix_closed = closed
        self.judges_prompt = prompt
        self.prompts: list[str] = []
        self.asked: list[list[str]] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.prompts = list(prompts)
        self.asked.append(list(outputs))
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


class Looks(Oracle):
    """Scores a text by a table; remembers what it was asked."""

    version = "1"

    def __init__(self, name: str, table: dict[str, float | None], effort: Effort = Effort.MODEL) -> None:
        self.name, self.table, self.effort = name, table, effort
        self.asked: list[str] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked += outputs
        return [self.table[output] for output in outputs]


PAIRS = [*itertools.product([0.0, 0.3, 1.0, None], repeat=2)]
TEXTS = [str(number) for number in range(len(PAIRS))]


@pytest.mark.parametrize("turned", [False, True])
def test_what_one_part_decides_the_other_is_not_asked_and_the_scores_are_those_of_asking_both(turned: bool) -> None:
    tables = [dict(zip(TEXTS, column, strict=True)) for column in zip(*PAIRS, strict=True)]
    for together, decided in ((Oracle.__and__, 0.0), (Oracle.__or__, 1.0)):
        cheap, dear = Looks("cheap", tables[0], Effort.RULE), Looks("dear", tables[1], Effort.SERVICE)
        pair = together(dear, cheap) if turned else together(cheap, dear)
        assert judge(pair, [""] * len(TEXTS), TEXTS) == [pair.combine(a, b) for a, b in PAIRS]
        assert cheap.asked == TEXTS
        assert dear.asked == [text for text, (a, _) in zip(TEXTS, PAIRS, strict=True) if a != decided]


def test_a_part_is_not_asked_about_nothing() -> None:
    asked = Says(1.0)
    assert judge(RegexOracle("bad") & asked, [""] * 2, ["bad", "so bad"]) == [0.0, 0.0]
    assert judge(asked | RegexOracle("bad"), [""] * 2, ["good", "fine"]) == [1.0, 1.0]
    assert asked.asked == []


def test_of_many_parts_the_cheapest_is_asked_first_wherever_it_stands() -> None:
    judged = {"fine": 1.0, "bad": 1.0}
    dear, dearer = Looks("a", judged, Effort.SERVICE), Looks("b", judged, Effort.SERVICE)
    rule = RegexOracle("bad")
    for pair in (dear & dearer & rule, dear & (rule & dearer), ~(~rule | ~dear) & dearer):
        dear.asked, dearer.asked = [], []
        assert judge(pair, [""] * 2, ["fine", "bad"]) == [1.0, 0.0]
        assert pair.effort == Effort.SERVICE
        assert (dear.asked + dearer.asked).count("fine") == 2
        assert (dear.asked + dearer.asked).count("bad") <= 1
