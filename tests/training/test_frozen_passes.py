"""A row of the corpus costs the frozen model one pass in the whole run, whatever the loss reads of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

from adhere.guidance.evidence import Evidence
from adhere.models.corpus_features import CorpusFeatures
from adhere.models.frozen import FrozenModel
from adhere.records import Verdict
from adhere.training.frozen_passes import corpus_features, read_frozen
from adhere.training.loss import Batch

ROWS = [(1, 2, 3, 4, 5), (6, 7, 8)]


def _batch(rows: list[tuple[int, ...]]) -> Batch:
    width = max(map(len, rows))
    tokens_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    output_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
    output_BT[:, 1:2] = True
    none_B = torch.zeros(len(rows))
    return Batch(
        tokens_BT, mask_BT, output_BT, output_BT, output_BT, none_B.bool(), none_B.bool(), none_B,
        none_B.long()[:, None] - 1, none_B[:, None] + 1,
    )  # fmt: skip


@pytest.mark.parametrize("reference_logits", [False, True])
@pytest.mark.parametrize("anchored", [False, True])
def test_what_is_read_is_the_same_with_kept_features_and_takes_no_pass(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, reference_logits: bool, anchored: bool
) -> None:
    reference, batch = FrozenModel(tiny_model, torch.float32), _batch(ROWS)
    wanted: dict[str, Any] = {
        "features": True, "anchored_to_reference": anchored, "reference_logits": reference_logits,
    }  # fmt: skip
    passed = read_frozen(batch, reference, None, **wanted)
    monkeypatch.setattr("adhere.training.frozen_passes.frozen_pass", None)
    kept = read_frozen(batch, reference, None, **wanted, corpus=CorpusFeatures(reference, ROWS))
    real_BT = batch.attention_mask_BT.bool()
    assert passed.features_BTD is not None and kept.features_BTD is not None
    torch.testing.assert_close(kept.features_BTD[real_BT], passed.features_BTD[real_BT], atol=1e-5, rtol=1e-5)
    for one, other in ((passed.anchor_BTV, kept.anchor_BTV), (passed.reference_BTV, kept.reference_BTV)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(other[batch.output_BT], one[batch.output_BT], atol=1e-5, rtol=1e-5)


def test_a_batch_with_a_row_that_is_not_kept_is_read_as_a_whole(tiny_model: LlamaForCausalLM) -> None:
    reference, batch = FrozenModel(tiny_model, torch.float32), _batch([ROWS[0], (9, 9)])
    wanted: dict[str, Any] = {"features": True, "anchored_to_reference": False, "reference_logits": True}
    passed = read_frozen(batch, reference, None, **wanted)
    mixed = read_frozen(batch, reference, None, **wanted, corpus=CorpusFeatures(reference, ROWS))
    assert torch.equal(mixed.features_BTD, passed.features_BTD)  # type: ignore[arg-type]
    assert torch.equal(mixed.reference_BTV, passed.reference_BTV)  # type: ignore[arg-type]


def test_rows_that_nothing_is_fitted_on_are_kept_where_the_run_comes_by_them_again(
    tiny_model: LlamaForCausalLM,
) -> None:
    reference, rows = FrozenModel(tiny_model, torch.float32), Dataset.from_dict({"input_ids": list(map(list, ROWS))})
    fitted = [Evidence((1, 2), (3, 4, 5), {"c": Verdict(1.0)}, on_policy=False)]
    for visits, known in ((1, True), (0, False)):
        features = corpus_features(reference, rows, fitted, visits)
        assert (features.batch(torch.tensor([ROWS[1]]), torch.ones(1, 3, dtype=torch.long)) is not None) == known
        assert features.of(ROWS[0]).shape == (5, 16)
