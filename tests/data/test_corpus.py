from __future__ import annotations

import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from adhere.data import corpus as corpus_module
from adhere.data.corpus import EXAMPLE_COLUMNS, CorpusConfig, examples_from_dataset, load_corpus, load_examples
from adhere.data.tokenization import tokenize_examples
from adhere.errors import CorpusError
from adhere.records import Example

ROWS = [{"text": f"Row number {i} says what it says"} for i in range(20)]


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_corpus_is_split_into_what_is_learned_and_what_is_held_out(tmp_path: Path) -> None:
    corpus = load_corpus(CorpusConfig(path=jsonl(tmp_path / "c.jsonl", *ROWS), holdout=0.25))
    assert (len(corpus.train), len(corpus.heldout)) == (15, 5)
    assert sorted([*corpus.train["row"], *corpus.heldout["row"]]) == list(range(20))
    assert corpus.train[0]["prompt"] + corpus.train[0]["completion"] == ROWS[corpus.train[0]["row"]]["text"]


def test_the_columns_are_those_of_an_example_and_the_source(tmp_path: Path) -> None:
    examples = load_examples(CorpusConfig(path=jsonl(tmp_path / "c.jsonl", *ROWS)))
    assert set(examples.column_names) == set(EXAMPLE_COLUMNS) == {f.name for f in fields(Example)} | {"source"}
    assert len(examples) == 20  # the held-out part is left aside here


def test_a_corpus_longer_than_a_chunk_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "ROWS_AT_ONCE", 3)
    examples = load_examples(CorpusConfig(path=jsonl(tmp_path / "c.jsonl", *ROWS)))
    assert examples["row"][:] == list(range(20))


def test_rows_left_out_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(tmp_path / "c.jsonl", *ROWS, {"text": "too short"}, {"text": ""})
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(CorpusConfig(path=path, skip_empty_rows=True))
    assert list(corpus.skipped.values()) == [1, 1]
    assert "rows left out: 1 texts of at most 4 words" in caplog.text
    assert "1 without text" in caplog.text


def test_a_corpus_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"c\.jsonl: nothing to learn from: every row was left out: 2 texts of at most 4"
    ):
        load_corpus(CorpusConfig(path=jsonl(tmp_path / "c.jsonl", {"text": "one"}, {"text": "two"})))
    (tmp_path / "blank.jsonl").write_text("\n \n")
    with pytest.raises(CorpusError, match="nothing to learn from: it has no rows"):
        load_corpus(CorpusConfig(path=tmp_path / "blank.jsonl"))


def test_a_heldout_file_never_meets_training(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", *ROWS)
    heldout = jsonl(
        tmp_path / "held.jsonl", ROWS[3], {"text": "row number 5 says another thing"}, {"text": "Not in it at all"}
    )
    corpus = load_corpus(CorpusConfig(path=path, holdout=heldout))
    assert (len(corpus.train), len(corpus.heldout)) == (18, 3)
    assert corpus.skipped == {"also in the held-out file": 2}
    with pytest.raises(CorpusError, match="every row of the corpus is also held out"):
        load_corpus(CorpusConfig(path=path, holdout=path))


def test_a_hub_dataset_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(path: str, name: str | None, split: str) -> Dataset:
        asked.append((path, name, split))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = load_examples(CorpusConfig(dataset="org/set", name="en", split="test"))
    assert asked == [("org/set", "en", "test")]
    assert examples.to_list() == load_examples(CorpusConfig(path=jsonl(tmp_path / "c.jsonl", *ROWS))).to_list()


def test_a_hub_dataset_that_cannot_be_loaded_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot be loaded: .*corpus\.dataset.*corpus\.path"):
        load_examples(CorpusConfig(dataset=str(tmp_path / "nothing")))


def test_a_dataset_in_memory_and_a_list_give_the_same_examples() -> None:
    assert examples_from_dataset(Dataset.from_list(ROWS)).to_list() == examples_from_dataset(ROWS).to_list()


def test_messages_survive_a_dataset(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}]
    examples = examples_from_dataset(Dataset.from_list(rows), chat_tokenizer)
    assert examples[0]["completion"] == "hello<eot>\n"
    tokens = tokenize_examples(examples, chat_tokenizer, 64)[0]
    assert chat_tokenizer.decode(tokens["input_ids"]) == "<s><|user|>\nhi<eot>\n<|assistant|>\nhello<eot>"
    assert tokens["completion"] == "hello"


def test_examples_are_not_made_of_examples_again() -> None:
    examples = examples_from_dataset(ROWS, prompt_words=2)
    assert examples_from_dataset(examples, prompt_words=4) is examples


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "nothing to learn from: it has no rows"),
        (["text"], "the dataset, row 1: must be a dict"),
        ([{"text": 3}], "the dataset, row 1: `text` must be a string"),
        (DatasetDict({"train": Dataset.from_list(ROWS)}), "choose one split"),
        (Dataset.from_list(ROWS).to_iterable_dataset(), "is a IterableDataset"),
    ],
)
def test_a_dataset_that_is_no_corpus_is_a_clear_error(dataset: Any, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        examples_from_dataset(dataset)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"path": "a.jsonl", "dataset": "org/set"},
        {"path": "a.jsonl", "pth": 1},
        {"path": "a.jsonl", "prompt_words": 0},
        {"path": "a.jsonl", "max_length": 1},
        {"path": "a.jsonl", "max_length": 8, "max_prompt_length": 8},
        {"path": "a.jsonl", "holdout": 1.0},
        {"path": "a.jsonl", "holdout": -0.1},
        {"path": "a.jsonl", "format": "xml"},
        {"path": "a.jsonl", "columns": {"body": "text"}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CorpusConfig(**settings)


@pytest.mark.parametrize(("given", "read"), [(0.2, 0.2), (0, 0.0), ("0.2", 0.2), ("held.jsonl", Path("held.jsonl"))])
def test_holdout_is_a_fraction_or_a_path(given: Any, read: object) -> None:
    assert CorpusConfig(path=Path("a.jsonl"), holdout=given).holdout == read
