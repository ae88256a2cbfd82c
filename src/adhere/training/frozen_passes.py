"""What the loss reads of models held still: NADO's features, the anchor's logits, the reference's logits.

B batch · T time · V vocabulary · D width of the language model
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from adhere.guidance.guidance import Guidance
from adhere.models.frozen import FrozenModel, fast_dtype, frozen_pass
from adhere.training.loss import Batch


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
) -> FrozenReading:
    """One pass of each frozen model that somebody reads.

    Args:
        batch: whose tokens are read.
        anchor: the policy of the iteration's beginning, where q* is built on it.
        features: whether NADO reads hidden states.
        anchored_to_reference: whether q* is built on the reference.
        reference_logits: whether a row of this batch is held to the reference.
    """
    tokens_BT, mask_BT = batch.input_ids_BT, batch.attention_mask_BT
    features_BTD, reference_BTV, anchor_BTV = None, None, None
    if features or anchored_to_reference or reference_logits:
        wanted = anchored_to_reference or reference_logits
        features_BTD, reference_BTV = frozen_pass(reference, tokens_BT, mask_BT, features, logits=wanted)
    if anchored_to_reference:
        anchor_BTV = reference_BTV
    elif anchor is not None:
        _, anchor_BTV = frozen_pass(anchor, tokens_BT, mask_BT, False, logits=True)
    return FrozenReading(features_BTD, anchor_BTV, reference_BTV if reference_logits else None)


def iteration_anchor(policy: PreTrainedModel, guidance: Guidance, step: int, run_folder: Path) -> FrozenModel:
    """The policy as it stood when the iteration began; from disk after a resume in the middle of it."""
    anchor = FrozenModel(policy, fast_dtype(policy.device))
    file = run_folder / "anchors" / f"iteration-{guidance.version.iteration:04d}.safetensors"
    if step == guidance.version.policy_step:
        anchor.save(file)
    else:
        anchor.load(file)
    return anchor
