"""What the loss reads of models held still: NADO's features, the anchor's logits, the reference's logits.

B batch · T time · V vocabulary · D width of the language model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from adhere import ranks
from adhere.guidance.evidence import Evidence
from adhere.models.corpus_features import LARGEST, CorpusFeatures, worth_keeping
from adhere.models.frozen import FrozenModel, fast_dtype, frozen_pass
from adhere.training.loss import Batch

if TYPE_CHECKING:
    from datasets import Dataset


class FrozenReading(NamedTuple):
    """None where nobody reads it."""

    features_BTD: Tensor | None  # hidden states of the reference
    anchor_BTV: Tensor | None  # logits of the model q* is built on, where it is not the live policy
    reference_BTV: Tensor | None  # logits of the reference, where a row is held to it


def read_frozen(
    batch: Batch,
    reference: FrozenModel,
    anchor: FrozenModel | None,
    *,
    features: bool,
    anchored_to_reference: bool,
    reference_logits: bool,
    corpus: CorpusFeatures | None = None,
) -> FrozenReading:
    """One pass of each frozen model that somebody reads.

    Args:
        batch: whose tokens are read.
        anchor: the policy of the iteration's beginning, where q* is built on it.
        features: whether NADO reads hidden states.
        anchored_to_reference: whether q* is built on the reference.
        reference_logits: whether a row of this batch is held to the reference.
        corpus: features that are known; they spare the reference's pass over a batch that has no other rows. The
            reference's logits are then told at the output positions alone.
    """
    tokens_BT, mask_BT = batch.input_ids_BT, batch.attention_mask_BT
    features_BTD, reference_BTV, anchor_BTV = None, None, None
    if features or anchored_to_reference or reference_logits:
        wanted = anchored_to_reference or reference_logits
        if corpus is not None:
            features_BTD = corpus.batch(tokens_BT, mask_BT)
        if corpus is not None and features_BTD is not None and wanted:
            reference_BTV = corpus.logits(features_BTD, batch.output_BT)
        if features_BTD is None or (wanted and reference_BTV is None):
            features_BTD, reference_BTV = frozen_pass(reference, tokens_BT, mask_BT, features, logits=wanted)
    if anchored_to_reference:
        anchor_BTV = reference_BTV
    elif anchor is not None:
        _, anchor_BTV = frozen_pass(anchor, tokens_BT, mask_BT, False, logits=True)
    return FrozenReading(features_BTD, anchor_BTV, reference_BTV if reference_logits else None)


def corpus_features(reference: FrozenModel, rows: Dataset, evidence: Sequence[Evidence], visits: int) -> CorpusFeatures:
    """Features of what NADO is fitted on, and of the other rows where keeping them is worth it (`worth_keeping`).

    Args:
        rows: tokenised, as they are trained on.
        evidence: corpus rows that NADO is fitted on.
        visits: how many rows the run trains on, repetitions counted.
    """
    fitted, width = [item.tokens for item in evidence], reference.embeddings_VD.shape[1]
    if visits < len(rows) - len(fitted) or len(rows) * width * 2 > LARGEST:  # before all rows are read
        return CorpusFeatures(reference, fitted)
    tokens = [tuple(ids) for ids in rows["input_ids"]]
    return CorpusFeatures(reference, fitted, worth_keeping(tokens, fitted, visits, width))


def iteration_anchor(policy: PreTrainedModel, iteration: int, begins: bool, run_folder: Path) -> FrozenModel:
    """The policy as it stood when the iteration of the training began; from disk after a resume in the middle of it."""
    anchor = FrozenModel(policy, fast_dtype(policy.device))
    file = run_folder / "anchors" / f"iteration-{iteration:04d}.safetensors"
    if begins:
        ranks.on_first(lambda: anchor.save(file))
    else:
        anchor.load(file)
    return anchor
