from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from adhere.data.prompts import fit_to_context, prompts_from_examples, read_prompts
from adhere.data.tokenization import encode_prompt
from adhere.errors import CorpusError
from adhere.records import Prompt

LONG = "The movie was good and the movie was long"


def test_a_text_file_has_a_prompt_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Once upon\n\n a time \nOnce upon\n", encoding="utf-8")
    assert read_prompts(path) == [Prompt(0, "Once upon"), Prompt(1, " a time ")]


def test_a_jsonl_file_has_prompt_or_text_and_perhaps_a_domain(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a", "text": "not this"}, {"text": "b", "domain": "chat"}, {"prompt": "a"}, {"prompt": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(path) == [Prompt(0, "a"), Prompt(1, "b", "chat"), Prompt(2, "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{"body": "b"}\n', "line 2: a row of prompts has a string `prompt` or `text`, got "),
        ('{"prompt": 3}\n', "line 1: a row of prompts"),
        ('{"prompt": "a", "domain": 3}\n', "line 1: `domain` must be a string, got 3"),
        ('{"prompt": "\\ud800"}\n', "line 1: .*half a character"),
        ("\n\n", "no prompts in it"),
        ("", "the file is empty"),
    ],
)
def test_a_file_without_prompts_is_a_clear_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=rf"prompts\.jsonl.*{message}"):
        read_prompts(path)


def test_prompts_of_a_corpus_come_once_in_its_order() -> None:
    examples = Dataset.from_dict({"prompt": ["b", "a", "b", "c"], "domain": ["x", "y", "z", "x"]})
    assert prompts_from_examples(examples) == [Prompt(0, "b", "x"), Prompt(1, "a", "y"), Prompt(2, "c", "x")]


def test_prompts_that_fit_are_left_as_they_are(tokenizer: PreTrainedTokenizerFast) -> None:
    room = len(encode_prompt(tokenizer, LONG))
    prompts = [Prompt(4, LONG, "d"), Prompt(9, "")]
    assert fit_to_context(prompts, tokenizer, context=room + 10, max_new_tokens=10) == prompts


def test_a_prompt_longer_than_the_context_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    room = len(encode_prompt(tokenizer, LONG))
    with pytest.raises(
        CorpusError, match=rf"longer than the context: prompt 4 \('The mov.* has {room} tokens.*{room - 1}"
    ):
        fit_to_context([Prompt(0, "a"), Prompt(4, LONG)], tokenizer, context=room + 9, max_new_tokens=10)


@pytest.mark.parametrize("room", range(1, 12))
def test_a_long_prompt_is_cut_from_the_left_when_asked(bos_tokenizer: PreTrainedTokenizerFast, room: int) -> None:
    text = "A café in the old town, a town by the sea, café 日本"
    (prompt,) = fit_to_context([Prompt(4, text, "d")], bos_tokenizer, room + 10, 10, overlong="truncate")
    assert (prompt.index, prompt.domain) == (4, "d")
    assert len(encode_prompt(bos_tokenizer, prompt.text)) <= room
    assert text.endswith(prompt.text.lstrip("\N{REPLACEMENT CHARACTER}"))
    assert room < 4 or prompt.text


def test_a_context_without_room_for_any_prompt_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CorpusError, match=r"max_new_tokens 10 leaves no room .* context of 10 tokens"):
        fit_to_context([Prompt(0, "a")], tokenizer, context=10, max_new_tokens=10)
