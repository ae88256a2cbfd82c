"""Tokenised rows to a padded batch.

Legend: `B` batch, `T` time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adhere.data.tokenization import pad_id

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label that no loss counts."""


class ConstrainedCollator:
    """Right-pads rows of `tokenize_examples` into the batch that the trainer takes.

    The batch:
        input_ids: long B T.
        attention_mask: long B T, 1 on tokens, 0 on padding. It alone says what is padding: the pad id may be that of
            EOS.
        labels: long B T, the ids, but -100 on padding, on position 0 (nothing predicts it) and, unless the row has
            `learn_prompt`, on the prompt. So their count is the number of predicted tokens.
        output_mask: bool B T, True on the completion and its EOS. Position t predicts token t + 1, so the output
            positions are the t with `output_mask[:, t + 1]`, the last token of the prompt included.
        row: long B, the rows' numbers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> None:
        """
        Args:
            tokenizer: only its pad id is kept.
            pad_to_multiple_of: T becomes a multiple of this (8 suits tensor cores).

        Raises:
            ValueError: `pad_to_multiple_of` below 1.
        """
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of must be at least 1, got {pad_to_multiple_of}")
        self.pad_id = pad_id(tokenizer)
        self.multiple = pad_to_multiple_of or 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows, at least one; their columns `row`, `input_ids`, `prompt_length`, `learn_prompt` count."""
        import torch

        longest = max(len(row["input_ids"]) for row in rows)
        width = -(-longest // self.multiple) * self.multiple
        shape = (len(rows), width)
        input_ids_BT = torch.full(shape, self.pad_id, dtype=torch.long)
        attention_mask_BT = torch.zeros(shape, dtype=torch.long)
        labels_BT = torch.full(shape, IGNORED, dtype=torch.long)
        output_mask_BT = torch.zeros(shape, dtype=torch.bool)
        for b, row in enumerate(rows):
            ids_T = torch.as_tensor(row["input_ids"], dtype=torch.long)
            end, start = len(ids_T), int(row["prompt_length"])
            learned_from = 1 if row["learn_prompt"] else start
            input_ids_BT[b, :end] = ids_T
            attention_mask_BT[b, :end] = 1
            labels_BT[b, learned_from:end] = ids_T[learned_from:]
            output_mask_BT[b, start:end] = True
        return {
            "input_ids": input_ids_BT,
            "attention_mask": attention_mask_BT,
            "labels": labels_BT,
            "output_mask": output_mask_BT,
            "row": torch.tensor([int(row["row"]) for row in rows], dtype=torch.long),
        }
