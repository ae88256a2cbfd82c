"""Verdicts on outputs and on their prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from adhere.errors import OracleError
from adhere.functional.nado import violated_from
from adhere.guidance.constraint import Constraint
from adhere.guidance.labels import label
from adhere.oracles.base import Oracle
from adhere.records import Verdict


class Watched(Oracle):
    """Violated by a `z`; remembers every call; has no verdict on what is in `unknown`."""

    version = "1"

    def __init__(self, prefix_closed: bool = True, unknown: Sequence[str] = (), judges_prompt: bool = False) -> None:
        self.name = "no z"
        self.prefix_closed, self.judges_prompt = prefix_closed, judges_prompt
        self.unknown = unknown
        self.calls: list[list[tuple[str, str]]] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.calls.append(list(zip(prompts, outputs, strict=True)))
        return [None if output in self.unknown else float("z" not in output) for output in outputs]


def _label(
    oracle: Oracle, tokenizer: PreTrainedTokenizerFast, outputs: Sequence[str], prompts: Sequence[str] | None = None
) -> list[Verdict]:
    ids = [[*tokenizer(output)["input_ids"], tokenizer.eos_token_id] for output in outputs]
    prompts = prompts or ["z in a prompt"] * len(outputs)
    return [found[oracle.name] for found in label([Constraint(oracle)], tokenizer, prompts, outputs, ids)]


def test_prefixes_are_asked_of_violating_outputs_alone(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    oracle = Watched()
    clean, violating = _label(oracle, tiny_tokenizer, ["abc", "azc"])
    assert clean == Verdict(1.0, None)
    assert oracle.calls[0] == [("", "abc"), ("", "azc")]
    assert [output for _, output in oracle.calls[1]] == ["", "a", "az", "azc"]
    assert len(oracle.calls) == 2
    # "", "a", "az", "azc", and the output itself, which is "azc" with its end-of-sequence token
    assert violating == Verdict(0.0, (1.0, 1.0, 0.0, 0.0, 0.0))
    assert violating.prefix_scores is not None and violated_from(violating.prefix_scores) == 2


def test_an_oracle_that_is_not_prefix_closed_is_not_asked_about_prefixes(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    oracle = Watched(prefix_closed=False)
    assert _label(oracle, tiny_tokenizer, ["abc", "azc"]) == [Verdict(1.0, None), Verdict(0.0, None)]
    assert len(oracle.calls) == 1


def test_the_last_prefix_score_is_the_score_of_the_output_itself(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Not of its decoded tokens: the oracle judged the text as it was written."""

    class Soft(Watched):
        def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
            return [0.25 if output == "azc" else 0.4 for output in outputs]

    oracle = Soft()
    ids = tiny_tokenizer("azb")["input_ids"]  # tokens that decode to another text than the one judged
    found = label([Constraint(oracle)], tiny_tokenizer, ["p"], ["azc"], [ids])[0]["no z"]
    assert found.prefix_scores == (0.4, 0.4, 0.4, 0.25)


def test_no_verdict_stays_no_verdict(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    oracle = Watched(unknown=["azc"])
    assert _label(oracle, tiny_tokenizer, ["azc", "abc"]) == [Verdict(None, None), Verdict(1.0, None)]


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        (["azb"], (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)),  # it goes on from one that violates
        (["", "a"], None),  # either may be the first that violates
        ([""], (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)),  # a longer one satisfies
        (["az"], None),
        (["az", "azb"], None),
        (["azb", "azbc"], (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_a_prefix_without_a_verdict_gets_the_one_that_follows_from_the_others_or_none_is_used(
    unknown: list[str], expected: tuple[float, ...] | None, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [*tiny_tokenizer("azbc")["input_ids"], tiny_tokenizer.eos_token_id]
    scores = iter([[0.0]])

    class Gaps(Watched):
        """Knows the output itself, and not the prefixes in `unknown`."""

        def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
            return next(scores, None) or super().score(prompts, outputs)

    oracle = Gaps(unknown=unknown)
    (found,) = (row["no z"] for row in label([Constraint(oracle)], tiny_tokenizer, ["p"], ["azbc"], [ids]))
    assert found == Verdict(0.0, expected)


def test_prefixes_without_a_verdict_are_asked_about_again(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    class Late(Watched):
        def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
            found = super().score(prompts, outputs)
            return [None] * len(outputs) if len(self.calls) == 2 else found

    (found,) = _label(oracle := Late(), tiny_tokenizer, ["az"])
    assert found == Verdict(0.0, (1.0, 1.0, 0.0, 0.0))
    assert [len(call) for call in oracle.calls] == [1, 3, 3]


def test_texts_are_judged_without_their_prompts_unless_the_oracle_asks(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    oracle = Watched(judges_prompt=True)
    _label(oracle, tiny_tokenizer, ["az", "az"], ["one", "two"])
    assert oracle.calls[0] == [("one", "az"), ("two", "az")]
    assert oracle.calls[1] == [(prompt, text) for prompt in ("one", "two") for text in ("", "a", "az")]
    alone = Watched()
    _label(alone, tiny_tokenizer, ["az", "az"], ["one", "two"])
    assert {prompt for call in alone.calls for prompt, _ in call} == {""}
    assert [text for _, text in alone.calls[1]] == ["", "a", "az"]  # each different text once


def test_every_constraint_judges_every_output(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    one, two = Watched(), Watched(prefix_closed=False)
    two.name = "other"
    found = label([Constraint(one), Constraint(two)], tiny_tokenizer, ["p"], ["z"], [tiny_tokenizer("z")["input_ids"]])
    assert found == [{"no z": Verdict(0.0, (1.0, 0.0)), "other": Verdict(0.0, None)}]


def test_an_oracle_that_breaks_its_contract_is_named(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    class Broken(Watched):
        def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
            return [1.7] * len(outputs)

    with pytest.raises(OracleError, match=r"'no z' must return numbers in \[0, 1\]"):
        _label(Broken(), tiny_tokenizer, ["abc"])
