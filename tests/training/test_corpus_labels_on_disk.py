"""What an oracle said of corpus rows outlives what goes wrong after it; rows that were cut are told as such."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from adhere.data.corpus import examples_from_dataset
from adhere.data.tokenization import tokenize_examples
from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle
from adhere.training import corpus_labels
from adhere.training.corpus_labels import CorpusLabels


class Failing(Oracle):
    """Violated by a `z`; fails from the `last`-th output on."""

    name, version = "no z", "1"

    def __init__(self, last: int = 99) -> None:
        self.asked, self.last = 0, last

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        if self.asked >= self.last:
            raise RuntimeError("the service is down")
        self.asked += len(outputs)
        return [float("z" not in output) for output in outputs]


def _rows(tokenizer: PreTrainedTokenizerFast, max_length: int = 16) -> Dataset:
    texts = ("bz", "b", "ok", "zz", "what a long story this is", "fine")
    examples = examples_from_dataset([{"prompt": "a", "completion": f" {text}"} for text in texts])
    return tokenize_examples(examples, tokenizer, max_length)


def _labels(tokenizer: PreTrainedTokenizerFast, oracle: Oracle, folder: Path) -> CorpusLabels:
    return CorpusLabels(_rows(tokenizer), [Constraint(oracle, name="c")], tokenizer, folder)


def test_an_oracle_that_fails_loses_none_of_the_chunks_before(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_labels, "CHUNK", 2)
    with pytest.raises(Exception, match="the service is down"):
        _labels(tiny_tokenizer, Failing(last=4), tmp_path).violating()
    file = tmp_path / "labels" / "corpus.jsonl"
    file.write_text(file.read_text() + '{"row": 4, "verd')  # and then the process was killed in the middle of a line
    again = Failing()
    assert _labels(tiny_tokenizer, again, tmp_path).violating() == {0, 3}
    assert again.asked == 2
    last = Failing()
    assert _labels(tiny_tokenizer, last, tmp_path).violating() == {0, 3}
    assert last.asked == 0


def test_a_row_that_was_cut_is_not_finished(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = _rows(tiny_tokenizer, max_length=8)
    labels = CorpusLabels(rows, [Constraint(Failing(), name="c")], tiny_tokenizer, tmp_path)
    finished = {item.prompt_ids + item.output_ids: item.finished for item in labels.evidence(6, seed=0)}
    assert [finished[tuple(ids)] for ids in rows["input_ids"]] == [True, True, True, True, False, True]
