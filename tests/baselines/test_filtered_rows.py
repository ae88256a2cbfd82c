"""The corpus without what violates, by the oracle that other methods train with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from adhere.baselines.filtered_rows import filtered_rows
from adhere.baselines.whole_outputs import WholeOutputs, on_whole_outputs
from adhere.costs import Costs, Ledger
from adhere.data.corpus import examples_from_dataset
from adhere.data.tokenization import tokenize_examples
from adhere.errors import CorpusError, VerdictsMissingError
from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle, judge


class Counted(Oracle):
    """`x` violates, `?` gets no verdict."""

    name, version, prefix_closed = "counted", "1", True

    def __init__(self) -> None:
        self.asked = 0

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked += len(outputs)
        return [None if "?" in output else 0.0 if "x" in output else 1.0 for output in outputs]


def _rows(tokenizer: PreTrainedTokenizerFast, completions: Sequence[str]) -> Dataset:
    examples = examples_from_dataset([{"prompt": "a", "completion": text} for text in completions])
    return tokenize_examples(examples, tokenizer, 32)


def test_rows_that_violate_or_have_no_verdict_are_dropped(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = _rows(tiny_tokenizer, ["good", "an x", "why?", "fine"])
    kept = filtered_rows(rows, [Constraint(Counted())], tiny_tokenizer, tmp_path, 0.5)
    assert kept["completion"][:] == ["good", "fine"]
    assert kept.column_names == rows.column_names


def test_every_constraint_counts(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    constraints = [Constraint(Counted(), name="one"), Constraint(~Counted(), name="other")]
    with pytest.raises(
        CorpusError, match=r"none of 2 corpus rows satisfies every constraint \(0 are without a verdict\)"
    ):
        filtered_rows(_rows(tiny_tokenizer, ["good", "an x"]), constraints, tiny_tokenizer, tmp_path, 0.5)


def test_prefixes_are_not_asked_about_and_the_verdicts_are_kept(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows, oracle = _rows(tiny_tokenizer, ["good", "an x", "fine"]), Counted()
    for _ in range(2):  # the second time they are on disk
        filtered_rows(rows, [Constraint(oracle)], tiny_tokenizer, tmp_path, 0.5)
        assert oracle.asked == 3
        assert Ledger(tmp_path).total() == Costs(oracle_calls=3)


def test_an_oracle_on_whole_outputs_is_the_same_oracle_otherwise() -> None:
    oracle = Counted()
    whole = on_whole_outputs([Constraint(oracle, target=0.9, weight=3.0, name="a")])[0]
    assert (whole.target, whole.weight, whole.name) == (0.9, 3.0, "a")
    assert isinstance(whole.oracle, WholeOutputs)
    assert (whole.oracle.name, whole.oracle.version, whole.oracle.prefix_closed) == ("counted", "1", False)
    assert whole.oracle.parts == (oracle,)
    assert judge(whole.oracle, ["", ""], ["x", "?"]) == [0.0, None]


def test_a_corpus_that_an_oracle_is_silent_about_pauses_the_run(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = _rows(tiny_tokenizer, ["good", "why?"])
    with pytest.raises(VerdictsMissingError, match="1 of 2 corpus rows got no verdict"):
        filtered_rows(rows, [Constraint(Counted())], tiny_tokenizer, tmp_path, 0.4)
