"""Verdicts on corpus rows, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from adhere.data.corpus import examples_from_dataset
from adhere.data.tokenization import tokenize_examples
from adhere.errors import VerdictsMissingError
from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle
from adhere.records import Verdict
from adhere.training.corpus_labels import CorpusLabels

TEXTS = ("bz", "b", "ok", "zz", "unknown", "fine")


class Counted(Oracle):
    """Violated by a `z`, none of whose verdicts on `unknown`; counts what it is asked."""

    name, prefix_closed = "no z", True

    def __init__(self, version: str = "1") -> None:
        self.version, self.asked = version, 0

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked += len(outputs)
        return [None if "unknown" in output else float("z" not in output) for output in outputs]


@pytest.fixture
def rows(tiny_tokenizer: PreTrainedTokenizerFast) -> Dataset:
    examples = examples_from_dataset([{"prompt": "a", "completion": f" {text}"} for text in TEXTS])
    return tokenize_examples(examples, tiny_tokenizer, 16)


def _labels(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, folder: Path, *oracles: Oracle
) -> tuple[CorpusLabels, list[Oracle]]:
    asked = list(oracles) or [Counted()]
    constraints = [Constraint(oracle, name=f"c{number}") for number, oracle in enumerate(asked)]
    return CorpusLabels(rows, constraints, tokenizer, folder, max_without_verdict=0.5), asked


def test_rows_that_violate_any_constraint_are_told_and_so_are_those_without_a_verdict(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Learned like any other, a row without a verdict would count as satisfying."""
    assert _labels(rows, tiny_tokenizer, tmp_path / "one")[0].violating() == {0, 3, 4}
    no_b = Counted()
    no_b.score = lambda prompts, outputs: [float("b" not in output) for output in outputs]  # type: ignore[method-assign]
    assert _labels(rows, tiny_tokenizer, tmp_path / "two", Counted(), no_b)[0].violating() == {0, 1, 3, 4}


def test_rows_are_told_by_their_numbers_wherever_they_stand(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    kept = rows.select([5, 3, 2])
    labels, _ = _labels(kept, tiny_tokenizer, tmp_path)
    assert labels.violating() == {3}
    ids = [tuple(row["input_ids"]) for row in kept]
    evidence = labels.evidence(9, seed=0)
    assert sorted(item.prompt_ids + item.output_ids for item in evidence) == sorted(ids)


def test_evidence_is_the_whole_row_with_its_prefix_scores_and_is_not_of_the_policy(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    labels, _ = _labels(rows, tiny_tokenizer, tmp_path)
    by_ids = {item.prompt_ids + item.output_ids: item for item in labels.evidence(6, seed=0)}
    item = by_ids[tuple(rows[0]["input_ids"])]
    assert item.prompt_ids == tuple(tiny_tokenizer("a")["input_ids"]) and not item.on_policy
    # " bz" and the end of the sequence: "", " ", " b", " bz", the row itself
    assert item.verdicts == {"c0": Verdict(0.0, (1.0, 1.0, 1.0, 0.0, 0.0))}
    assert by_ids[tuple(rows[2]["input_ids"])].verdicts == {"c0": Verdict(1.0)}
    assert by_ids[tuple(rows[4]["input_ids"])].verdicts == {"c0": Verdict(None)}


def test_evidence_is_drawn_by_the_seed(rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    labels, _ = _labels(rows, tiny_tokenizer, tmp_path)
    drawn = [[item.output_ids for item in labels.evidence(3, seed)] for seed in (0, 0, 1, 2)]
    assert len(drawn[0]) == 3 and drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] or drawn[0] != drawn[3]
    assert labels.evidence(0, seed=0) == []


def test_a_row_is_judged_once_in_a_run_resumed_or_not(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    labels, (oracle,) = _labels(rows, tiny_tokenizer, tmp_path)
    expected = labels.evidence(3, seed=0)
    labels.violating()
    assert isinstance(oracle, Counted)
    asked = oracle.asked
    labels.violating()
    assert oracle.asked == asked > 6  # six rows and the prefixes of two
    again, (other,) = _labels(rows, tiny_tokenizer, tmp_path)
    assert again.violating() == {0, 3, 4}
    assert again.evidence(3, seed=0) == expected
    assert isinstance(other, Counted) and other.asked == 2  # about the row without a verdict, in two passes


def test_a_row_without_a_verdict_is_asked_about_again_and_what_comes_is_kept(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class Back(Counted):
        """Knows what `unknown` is from its fourth call on."""

        calls = 0

        def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
            self.calls += 1
            found = super().score(prompts, outputs)
            return found if self.calls < 4 else [1.0 if score is None else score for score in found]

    back = Back()
    assert _labels(rows, tiny_tokenizer, tmp_path, back)[0].violating() == {0, 3}
    assert back.calls == 4  # the rows, prefixes, and two later passes
    assert _labels(rows, tiny_tokenizer, tmp_path, last := Counted())[0].violating() == {0, 3}
    assert last.asked == 0


def test_too_many_rows_without_a_verdict_stop_the_run_and_a_resumed_one_asks_for_them_alone(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def labels(oracle: Oracle, allowed: float) -> CorpusLabels:
        return CorpusLabels(rows, [Constraint(oracle, name="c0")], tiny_tokenizer, tmp_path, allowed)

    said = r"paused: 1 of 6 corpus rows got no verdict from constraint 'c0' \(17%, .*max_without_verdict is 10%\)"
    with pytest.raises(VerdictsMissingError, match=said):
        labels(Counted(), 0.1).violating()
    with pytest.raises(VerdictsMissingError, match=said):
        labels(again := Counted(), 0.1).violating()
    assert again.asked == 2
    assert labels(Counted(), 0.17).violating() == {0, 3, 4}


def test_verdicts_of_another_oracle_or_corpus_are_not_taken_up(
    rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _labels(rows, tiny_tokenizer, tmp_path)[0].violating()
    labels, (oracle,) = _labels(rows, tiny_tokenizer, tmp_path, Counted(version="2"))
    labels.violating()
    assert isinstance(oracle, Counted) and oracle.asked > 0
    other = rows.map(lambda row: {"completion": row["completion"].replace("z", "y")})
    assert _labels(other, tiny_tokenizer, tmp_path, Counted(version="2"))[0].violating() == {4}


def test_the_file_is_json_a_line_a_row(rows: Dataset, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    _labels(rows, tiny_tokenizer, tmp_path)[0].violating()
    lines = [json.loads(line) for line in (tmp_path / "labels" / "corpus.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines[1:]] == list(range(6))
    assert lines[3]["verdicts"] == {"c0": [1.0, None]}
