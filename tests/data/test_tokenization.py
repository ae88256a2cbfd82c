from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from adhere.data.tokenization import encode_prompt, encode_prompts, pad_id, tokenize_examples
from adhere.errors import ModelError

COLUMNS = ["row", "input_ids", "prompt_length", "learn_prompt", "domain", "prompt", "completion"]


def examples(*pairs: tuple[str, str]) -> Dataset:
    return Dataset.from_list(
        [
            {"row": 7 + i, "prompt": p, "completion": c, "domain": "d", "learn_prompt": False}
            for i, (p, c) in enumerate(pairs)
        ]
    )


def tokenized(tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str, **lengths: Any) -> dict[str, Any]:
    row: dict[str, Any] = tokenize_examples(examples((prompt, completion)), tokenizer, **{"max_length": 64, **lengths})[
        0
    ]
    return row


def output_ids(row: dict[str, Any]) -> list[int]:
    ids: list[int] = row["input_ids"][row["prompt_length"] :]
    return ids


def test_a_row_is_prompt_then_completion_then_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    row = tokenized(tokenizer, "The movie", " was good")
    assert row["input_ids"] == [*tokenizer("The movie was good")["input_ids"], tokenizer.eos_token_id]
    assert row["prompt_length"] == len(tokenizer("The movie")["input_ids"])
    assert (row["row"], row["domain"], row["prompt"], row["completion"]) == (7, "d", "The movie", " was good")


def test_the_columns_and_their_order_are_those_of_the_contract(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenize_examples(examples(("a", " b")), tokenizer, 8).column_names == COLUMNS


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=12), st.text(min_size=1, max_size=12)), min_size=1, max_size=4))
def test_training_sees_the_prompt_as_the_sampler_does(
    bos_tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]
) -> None:
    rows = tokenize_examples(examples(*pairs), bos_tokenizer, 1000, 500)
    for row, (prompt, completion) in zip(rows, pairs, strict=True):
        assert row["input_ids"][: row["prompt_length"]] == encode_prompt(bos_tokenizer, prompt)
        assert bos_tokenizer.decode(output_ids(row)) == completion + "</s>"
        assert row["completion"] == completion


def test_one_prompt_and_many_are_encoded_alike(bos_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["The movie", "", "café ", "<s>twice"]
    assert encode_prompts(bos_tokenizer, texts) == [encode_prompt(bos_tokenizer, text) for text in texts]
    assert encode_prompts(bos_tokenizer, []) == []


def test_bos_is_never_written_twice(bos_tokenizer: PreTrainedTokenizerFast) -> None:
    bos = bos_tokenizer.bos_token_id
    for text in ("The movie", "<s>The movie"):
        ids = encode_prompt(bos_tokenizer, text)
        assert ids[0] == bos
        assert ids.count(bos) == 1


def test_bos_or_else_eos_stands_for_an_empty_prompt(
    tokenizer: PreTrainedTokenizerFast, bos_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert encode_prompt(bos_tokenizer, "") == [bos_tokenizer.bos_token_id]
    assert encode_prompt(tokenizer, "") == [tokenizer.eos_token_id]
    row = tokenized(tokenizer, "", "The movie")
    assert row["prompt_length"] == 1
    assert row["input_ids"] == [1, *tokenizer("The movie")["input_ids"], 1]


def test_an_empty_prompt_without_bos_or_eos_is_a_clear_error(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither"):
        encode_prompt(tokenizer, "")


def test_a_prompt_never_ends_in_the_tokenizers_own_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers.processors import TemplateProcessing

    closes = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    before = closes.backend_tokenizer.post_processor
    closes.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    try:
        assert closes("The movie")["input_ids"][-1] == 1
        assert 1 not in encode_prompt(closes, "The movie")
    finally:
        closes.backend_tokenizer.post_processor = before


def test_a_long_prompt_loses_its_beginning(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = encode_prompt(tokenizer, "The movie was long and the movie")
    row = tokenized(tokenizer, "The movie was long and the movie", " was good", max_prompt_length=3)
    assert row["prompt_length"] == 3
    assert row["input_ids"][:3] == ids[-3:]
    assert row["prompt"] == tokenizer.decode(ids[-3:])
    assert row["completion"] == " was good"


def test_a_long_prompt_keeps_its_bos(bos_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = encode_prompt(bos_tokenizer, "The movie was long and the movie")
    row = tokenized(bos_tokenizer, "The movie was long and the movie", " was good", max_prompt_length=3)
    assert row["input_ids"][:3] == [bos_tokenizer.bos_token_id, *ids[-2:]]
    assert encode_prompt(bos_tokenizer, row["prompt"]) == row["input_ids"][:3]


def test_the_prompt_takes_at_most_half_when_not_told(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenized(tokenizer, "The movie was good " * 9, " was", max_length=10)["prompt_length"] == 5


def test_a_long_completion_loses_its_end_and_gets_no_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = output_ids(tokenized(tokenizer, "The movie", " was good and the movie was long"))
    prompt_length = len(encode_prompt(tokenizer, "The movie"))
    for kept in range(1, len(whole)):
        row = tokenized(
            tokenizer, "The movie", " was good and the movie was long",
            max_length=prompt_length + kept, max_prompt_length=prompt_length,
        )  # fmt: skip
        assert output_ids(row) == whole[:kept]
        assert tokenizer.eos_token_id not in row["input_ids"]
        assert row["completion"] == tokenizer.decode(whole[:kept])
    row = tokenized(tokenizer, "The movie", " was good and the movie was long", max_length=prompt_length + len(whole))
    assert output_ids(row) == whole
    assert whole[-1] == tokenizer.eos_token_id


def test_an_output_ends_at_its_first_eos(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    row = tokenized(chat_tokenizer, "<s><|user|>\nhi<eot>\n<|assistant|>\n", "good<eot>\n")
    eot = chat_tokenizer.eos_token_id
    assert output_ids(row) == [*chat_tokenizer("good", add_special_tokens=False)["input_ids"], eot]
    assert row["input_ids"].count(chat_tokenizer.bos_token_id) == 1
    assert row["completion"] == "good"  # the oracle sees no special tokens


def test_an_end_of_turn_that_is_not_eos_is_followed_by_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    row = tokenized(tokenizer, "<|user|>\nhi<eot>\n<|assistant|>\n", "good<eot>\n")
    assert tokenizer.decode(output_ids(row)) == "good<eot>\n</s>"


def test_a_completion_gets_no_space_that_is_not_there(spm_tokenizer: PreTrainedTokenizerFast) -> None:
    row = tokenized(spm_tokenizer, "The movie", " was good")
    assert row["input_ids"][:-1] == spm_tokenizer("The movie was good")["input_ids"]
    assert output_ids(row)[:-1] != spm_tokenizer(" was good")["input_ids"]  # or this test shows nothing


def test_a_cut_inside_a_token_leaves_the_prompt_as_the_sampler_has_it(tokenizer: PreTrainedTokenizerFast) -> None:
    row = tokenized(tokenizer, "The mov", "ie was good")
    assert row["input_ids"][: row["prompt_length"]] == encode_prompt(tokenizer, "The mov")
    assert tokenizer.decode(row["input_ids"]) == "The movie was good</s>"
    assert tokenizer("The movie was good")["input_ids"] != row["input_ids"][:-1]  # or this test shows nothing


def test_unknown_words_stay_in_what_is_judged(spm_tokenizer: PreTrainedTokenizerFast) -> None:
    row = tokenized(spm_tokenizer, "The movie", " was 日本 good")
    assert spm_tokenizer.unk_token_id in output_ids(row)
    assert row["completion"] == " was 日本 good"


def test_a_tokenizer_without_eos_just_does_not_end_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = None
    assert tokenized(tokenizer, "The movie", " was good")["input_ids"] == tokenizer("The movie was good")["input_ids"]


@pytest.mark.parametrize(("max_length", "max_prompt_length"), [(1, None), (8, 8), (8, 0)])
def test_lengths_without_room_are_refused(
    tokenizer: PreTrainedTokenizerFast, max_length: int, max_prompt_length: int | None
) -> None:
    with pytest.raises(ValueError, match=r"corpus\.max_prompt_length"):
        tokenize_examples(examples(("a", " b")), tokenizer, max_length, max_prompt_length)


def test_a_tokenizer_without_a_pad_token_pads_with_eos(
    tokenizer: PreTrainedTokenizerFast, bos_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert tokenizer.pad_token_id is None
    assert pad_id(tokenizer) == tokenizer.eos_token_id == 1
    assert pad_id(bos_tokenizer) == bos_tokenizer.pad_token_id == 0
    tokenizer.eos_token = None
    assert pad_id(tokenizer) == 0
