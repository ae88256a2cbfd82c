"""What labelling costs is what the oracles were asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from adhere.guidance.constraint import Constraint
from adhere.guidance.labels import label
from adhere.oracles.base import Oracle


class _Watched(Oracle):
    """Counts what it is asked; `x` violates, `?` gets no verdict."""

    name, version = "watched", "1"

    def __init__(self, prefix_closed: bool) -> None:
        self.prefix_closed = prefix_closed
        self.asked = 0

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked += len(outputs)
        return [None if "?" in output else 0.0 if "x" in output else 1.0 for output in outputs]


def _spent(oracle: Oracle, tokenizer: PreTrainedTokenizerFast, outputs: list[str]) -> Counter[str]:
    spent: Counter[str] = Counter()
    ids = tokenizer(outputs)["input_ids"]
    label([Constraint(oracle, name="a")], tokenizer, [""] * len(outputs), outputs, ids, spent)
    return spent


def test_outputs_prefixes_and_missing_verdicts_are_counted_apart(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    oracle = _Watched(prefix_closed=True)
    spent = _spent(oracle, tiny_tokenizer, ["abx", "abx", "good", "why?"])
    assert spent == {"oracle_calls": 4, "no_verdict": 1, "prefix_scores": 3}  # "", "a" and "ab", asked once for both
    assert oracle.asked == 4 + 3


def test_an_oracle_that_is_not_prefix_closed_is_asked_about_outputs_alone(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    oracle = _Watched(prefix_closed=False)
    assert _spent(oracle, tiny_tokenizer, ["abx"])["prefix_scores"] == 0
    assert oracle.asked == 1
