from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from adhere.data.collation import ConstrainedCollator

EOS = 1


def row(ids: list[int], prompt_length: int, number: int = 0, learn_prompt: bool = False) -> dict[str, Any]:
    return {"input_ids": ids, "prompt_length": prompt_length, "learn_prompt": learn_prompt, "row": number}


SHORT = row([5, 6, EOS], 1, number=3)
LONG = row([5, 6, 7, 8, EOS], 2, number=9, learn_prompt=True)


@pytest.fixture
def batch(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    return ConstrainedCollator(tokenizer)([SHORT, LONG])


def test_rows_are_padded_on_the_right(batch: dict[str, Tensor]) -> None:
    assert batch["input_ids"].tolist() == [[5, 6, EOS, EOS, EOS], [5, 6, 7, 8, EOS]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["row"].tolist() == [3, 9]
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "input_ids": torch.long,
        "attention_mask": torch.long,
        "labels": torch.long,
        "output_mask": torch.bool,
        "row": torch.long,
    }


def test_a_real_eos_is_learned_though_padding_has_the_same_id(batch: dict[str, Tensor]) -> None:
    assert batch["labels"][0].tolist() == [-100, 6, EOS, -100, -100]


def test_the_prompt_is_learned_only_where_the_row_says_so(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row([5, 6, 7, 8, EOS], 2, learn_prompt=learn) for learn in (False, True)]
    labels = ConstrainedCollator(tokenizer)(rows)["labels"]
    assert labels.tolist() == [[-100, -100, 7, 8, EOS], [-100, 6, 7, 8, EOS]]


def test_labels_count_the_predicted_tokens(batch: dict[str, Tensor]) -> None:
    labels = batch["labels"]
    assert (labels != -100).sum() == (labels[:, 1:] != -100).sum() == 2 + 4


def test_the_output_mask_covers_completion_and_eos_alone(batch: dict[str, Tensor]) -> None:
    assert batch["output_mask"].int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]]


def test_the_first_output_token_is_among_the_output_positions(batch: dict[str, Tensor]) -> None:
    predicts_output = batch["output_mask"][:, 1:]  # position t predicts t + 1
    assert predicts_output[0].nonzero()[0].item() == SHORT["prompt_length"] - 1
    assert predicts_output[1].nonzero()[0].item() == LONG["prompt_length"] - 1


def test_the_width_is_a_multiple_and_only_padding_is_added(
    tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    wide = ConstrainedCollator(tokenizer, pad_to_multiple_of=4)([SHORT, LONG])
    assert wide["input_ids"].shape == (2, 8)
    for name in ("input_ids", "labels", "attention_mask", "output_mask"):
        assert torch.equal(wide[name][:, :5], batch[name])
    assert wide["attention_mask"][:, 5:].sum() == wide["output_mask"][:, 5:].sum() == 0
    assert (wide["labels"][:, 5:] == -100).all()


def test_a_row_is_the_same_alone_as_beside_a_longer_one(
    tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    alone = ConstrainedCollator(tokenizer)([SHORT])
    for name in ("input_ids", "labels", "attention_mask", "output_mask"):
        assert torch.equal(batch[name][:1, :3], alone[name])


def test_other_columns_do_not_disturb(tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]) -> None:
    extra = ConstrainedCollator(tokenizer)([{**SHORT, "prompt": "a", "domain": "d"}, LONG])
    assert all(torch.equal(extra[name], batch[name]) for name in batch)


def test_workers_of_a_data_loader_can_be_given_the_collator(tokenizer: PreTrainedTokenizerFast) -> None:
    collator = pickle.loads(pickle.dumps(ConstrainedCollator(tokenizer, 4)))
    assert (collator.pad_id, collator.multiple) == (EOS, 4)


def test_a_multiple_below_one_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="got 0"):
        ConstrainedCollator(tokenizer, 0)
