from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from adhere.data.rows import MAX_CHARACTERS, RowReader, cut_after_words
from adhere.errors import CorpusError
from adhere.records import Example

HELLO = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "how?"},
    {"role": "assistant", "content": "well"},
]


def read(*rows: dict[str, Any], **rules: Any) -> list[Example]:
    return read_by(RowReader(**rules), *rows)


def read_by(reader: RowReader, *rows: dict[str, Any]) -> list[Example]:
    return [example for _, example in reader.examples((f"row {i}", row) for i, row in enumerate(rows, start=1))]


def test_a_text_is_cut_after_its_first_words_and_learned_whole() -> None:
    assert read({"text": "  One two\tthree  four\nfive. "}, prompt_words=3) == [
        Example(0, "  One two\tthree", "  four\nfive. ", "default", learn_prompt=True)
    ]


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(1, 5))
def test_prompt_and_completion_are_the_text_to_the_character(text: str, words: int) -> None:
    prompt, completion = cut_after_words(text, words)
    assert prompt + completion == text
    assert len(prompt.split()) == min(words, len(text.split()))
    assert not completion or not prompt or completion[:1].isspace()


def test_a_pair_is_learned_from_its_completion_on() -> None:
    assert read({"prompt": "Q", "completion": " A", "domain": "qa"}) == [Example(0, "Q", " A", "qa", False)]
    assert read({"prompt": "", "completion": " A", "learn_prompt": True}) == [Example(0, "", " A", "default", True)]


def test_other_columns_are_left_out() -> None:
    assert read({"text": "a b c d e", "prompt": "only half a pair", "score": 3}) == read({"text": "a b c d e"})


def test_every_assistant_turn_is_one_example(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    first = "<s><|user|>\nhi<eot>\n<|assistant|>\n"
    second = first + "hello<eot>\n<|user|>\nhow?<eot>\n<|assistant|>\n"
    assert read({"messages": HELLO, "domain": "chat"}, tokenizer=chat_tokenizer) == [
        Example(0, first, "hello<eot>\n", "chat"),
        Example(1, second, "well<eot>\n", "chat"),
    ]


def test_an_assistant_turn_that_says_nothing_is_not_learned(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    silent = [HELLO[0], {"role": "assistant", "content": " "}, *HELLO[2:]]
    assert [example.completion for example in read({"messages": silent}, tokenizer=chat_tokenizer)] == ["well<eot>\n"]


def test_examples_are_numbered_through_and_know_their_row(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    reader = RowReader(chat_tokenizer)
    rows = [("a", {"messages": HELLO}), ("b", {"messages": HELLO[:1]}), ("c", {"messages": HELLO[:2]})]
    assert [(source, example.row) for source, example in reader.examples(rows)] == [(0, 0), (0, 1), (2, 2)]
    assert reader.skipped == {"conversations without an assistant turn": 1}


def test_a_template_that_rewrites_history_is_refused(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(CorpusError, match=r"row 1, message 2: the chat template doesn't extend"):
        read({"messages": HELLO}, tokenizer=chat_tokenizer)


def test_a_conversation_that_the_template_refuses_is_named(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(CorpusError, match="row 1: the chat template refuses this conversation: roles must alternate"):
        read({"messages": HELLO}, tokenizer=chat_tokenizer)


def test_a_conversation_begins_with_somebody_else(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(CorpusError, match="row 1: the conversation begins with the assistant"):
        read({"messages": HELLO[1:]}, tokenizer=chat_tokenizer)


def test_messages_need_a_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    for without in (tokenizer, None):
        with pytest.raises(CorpusError, match="need a tokenizer with a chat template"):
            read({"messages": HELLO}, tokenizer=without)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must be a list of messages, not empty"),
        ("hi", "must be a list of messages"),
        (["hi"], "message 1: must be an object with the strings `role` and `content`, got 'hi'"),
        ([HELLO[0], {"role": "assistant"}], "message 2: must be an object"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1: must be an object"),
        ([{"role": "user", "content": "\ud800"}], "half a character"),
        ([{"role": "user", "content": "x" * (MAX_CHARACTERS + 1)}], "1,000,001 characters"),
    ],
)
def test_broken_messages_are_clear_errors(
    chat_tokenizer: PreTrainedTokenizerFast, messages: object, message: str
) -> None:
    with pytest.raises(CorpusError, match=rf"^row 1.*{message}"):
        read({"messages": messages}, tokenizer=chat_tokenizer)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": None},
        {"text": ""},
        {"text": " \n"},
        {"body": "a b c"},
        {"prompt": "a"},
        {"prompt": "a", "completion": " "},
    ],
)
def test_a_row_without_text_is_an_error_or_left_out_as_asked(row: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match=r"^row 1: a row without text: .*corpus\.skip_empty_rows"):
        read(row)
    reader = RowReader(skip_empty_rows=True)
    assert read_by(reader, row) == []
    assert reader.skipped == {"without text": 1}


def test_a_row_without_text_says_what_it_has() -> None:
    with pytest.raises(CorpusError, match=r"it has body, n; a row has `text` or `prompt` . `completion` or `messages`"):
        read({"body": "a", "n": 1, "text": None})


def test_texts_that_are_all_prompt_are_left_out_and_counted() -> None:
    reader = RowReader(prompt_words=4)
    assert (
        len(read_by(reader, {"text": "one two three four "}, {"text": "one"}, {"text": "one two three four five"})) == 1
    )
    assert list(reader.skipped.values()) == [2]


@pytest.mark.parametrize(
    "row", [{"text": 5}, {"text": ["a"]}, {"prompt": 1, "completion": "a"}, {"text": "a b", "domain": 2}]
)
def test_a_value_of_the_wrong_type_is_an_error(row: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match=r"^row 1: `(text|prompt|domain)` must be a string, got (int|list) "):
        read(row, prompt_words=1)


def test_rows_of_two_shapes_in_one_corpus_are_an_error() -> None:
    with pytest.raises(CorpusError, match=r"^row 2: this row has `prompt` . `completion`, those before it `text`"):
        read({"text": "a b c d e"}, {"prompt": "a", "completion": "b"})


def test_a_row_of_two_shapes_is_an_error_unless_its_columns_are_named() -> None:
    row = {"text": "a b c d e", "prompt": "q", "completion": " a"}
    with pytest.raises(CorpusError, match=r"holds `text` and `prompt` . `completion`.*corpus\.columns"):
        read(row)
    assert read(row, columns={"text": "text"})[0].completion == " e"
    assert read(row, columns={"prompt": "prompt"})[0].completion == " a"


def test_columns_may_have_other_names() -> None:
    row = {"question": "q", "completion": " a", "kind": "qa", "text": "not this"}
    assert read(row, columns={"prompt": "question", "domain": "kind"}) == [Example(0, "q", " a", "qa")]


def test_half_a_character_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"^row 1: character 3 of a text is half a character"):
        read({"text": "ab\ud800 c d e f"})


@pytest.mark.parametrize("columns", [("text",), ("prompt", "completion")])
def test_a_row_has_a_million_characters_at_most(columns: tuple[str, ...]) -> None:
    share = MAX_CHARACTERS // len(columns)
    assert len(read({column: "x " * (share // 2) for column in columns}, prompt_words=1)) == 1
    with pytest.raises(CorpusError, match=r"^row 1: 1,000,001 characters; a row has at most 1,000,000"):
        read({columns[0]: "x" + "x " * (share // 2), **{column: "x " * (share // 2) for column in columns[1:]}})
