"""Hidden states of the frozen model for the rows of the corpus: read once, since neither of them ever changes.

B batch · T time · V vocabulary · D width of the language model
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adhere.functional.head import Head, finish
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.head import find_head

LARGEST = 2**31
"""Bytes of features that are kept in memory at most, beside those of the sequences that are fitted."""

ROWS_AT_ONCE = 32
"""Rows of similar length in one pass of the frozen model."""

TokenIds = tuple[int, ...]


class CorpusFeatures:
    """What the frozen model makes of given sequences, in the memory of the CPU.

    A sequence is read when it is first asked for, together with the others of its part. What a sequence is batched with
    changes its features' last bits, so the parts depend on the sequences alone: a resumed run, or another process, finds
    the same bits.

    Args:
        reference: the frozen model.
        fitted: token ids of the rows that NADO is fitted on.
        others: of further rows that are to be kept.
    """

    def __init__(self, reference: FrozenModel, fitted: Iterable[TokenIds], others: Iterable[TokenIds] = ()) -> None:
        self._reference = reference
        first = set(fitted)
        parts = [*_parts(first), *_parts(set(others) - first)]
        self._part_of = {ids: part for part in parts for ids in part}
        self._known: dict[TokenIds, Tensor] = {}
        self._head: Head | None = None
        self._sought = False

    def of(self, tokens: TokenIds) -> Tensor:
        """Hidden states [T, D] of one of the sequences. Raises KeyError of any other."""
        if tokens not in self._known:
            self._read(self._part_of[tokens])
        return self._known[tokens]

    def batch(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor | None:
        """Hidden states [B, T, D] of a batch padded on the right, 0 on padding; None where a row is not among the sequences."""
        lengths = attention_mask_BT.sum(1).tolist()
        rows = [tuple(ids[:length]) for ids, length in zip(input_ids_BT.tolist(), lengths, strict=True)]
        if any(row not in self._part_of for row in rows):
            return None
        features_BTD = pad_sequence([self.of(row) for row in rows], batch_first=True)
        missing = input_ids_BT.shape[1] - features_BTD.shape[1]
        return torch.nn.functional.pad(features_BTD, (0, 0, 0, missing)).to(input_ids_BT.device)

    @torch.no_grad()
    def logits(self, features_BTD: Tensor, where_BT: Tensor) -> Tensor | None:
        """The frozen model's logits [B, T, V] where they are asked for, 0 elsewhere, in float32.

        None where its head is more than `find_head` knows: then a pass has to tell.

        Args:
            features_BTD: from `batch`.
            where_BT: bool.
        """
        if not self._sought:
            with self._reference.lent() as model:
                self._head, self._sought = find_head(model), True
        if self._head is None:
            return None
        weight_VD = self._head.weight_VD.detach()
        product_NV = torch.nn.functional.linear(features_BTD[where_BT].to(weight_VD.dtype), weight_VD).float()
        logits_BTV = product_NV.new_zeros(*where_BT.shape, len(weight_VD))
        logits_BTV[where_BT], _ = finish(product_NV, self._head)
        return logits_BTV

    @torch.no_grad()
    def _read(self, part: Sequence[TokenIds]) -> None:
        tokens_BT = pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in part], batch_first=True)
        mask_BT = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in part], batch_first=True)
        with self._reference.lent() as model:
            features_BTD = hidden_states(model, tokens_BT.to(model.device), mask_BT.to(model.device)).cpu()
        for row, ids in enumerate(part):
            self._known[ids] = features_BTD[row, : len(ids)].clone()


def worth_keeping(rows: Iterable[TokenIds], fitted: Iterable[TokenIds], visits: int, width: int) -> set[TokenIds]:
    """The rows beside those NADO is fitted on whose features are to be kept: all of them or none.

    Args:
        rows: what is trained on.
        fitted: those of them that are fitted on, which are read in any case.
        visits: how many rows the run trains on, repetitions counted: each costs a pass where its features are not kept.
        width: D; features are counted with two bytes a number.
    """
    others = set(rows) - set(fitted)
    affordable = sum(map(len, others)) * width * 2 <= LARGEST
    return others if affordable and visits >= len(others) else set()


def _parts(sequences: set[TokenIds]) -> list[list[TokenIds]]:
    """Sequences of similar length together, so that little is padded."""
    order = sorted(sequences, key=lambda ids: (len(ids), ids))
    return [order[start : start + ROWS_AT_ONCE] for start in range(0, len(order), ROWS_AT_ONCE)]
