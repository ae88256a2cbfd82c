"""Rows that a user hands to the trainer, as it takes them: to learn from and to be evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adhere.data.corpus import examples_from_dataset
from adhere.data.tokenization import tokenize_examples
from adhere.errors import ModelError
from adhere.models.policy import Policy

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from adhere.training.config import ConstrainedConfig


def check_length(policy: Policy, config: ConstrainedConfig) -> None:
    """Raises ModelError when training sequences may be longer than what the model takes."""
    if config.max_length > policy.context_length:
        raise ModelError(
            f"max_length is {config.max_length} tokens, and the model takes at most {policy.context_length}: lower "
            "max_length of ConstrainedConfig"
        )


def tokenised(
    rows: Dataset | Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, config: ConstrainedConfig
) -> Dataset:
    """The rows as `tokenize_examples` gives them; those that are tokenised already stay as they are.

    Raises:
        CorpusError: rows that cannot be read.
    """
    from datasets import Dataset

    if isinstance(rows, Dataset) and {"input_ids", "prompt_length"} <= set(rows.column_names):
        return rows
    examples = examples_from_dataset(rows, tokenizer, config.prompt_words)
    return tokenize_examples(examples, tokenizer, config.max_length, config.max_prompt_length)
