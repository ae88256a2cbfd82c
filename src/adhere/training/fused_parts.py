"""The parts of the loss by the fused head: from what the head reads, without the logits of the batch.

B batch · T time · D width · N output positions of the batch · M positions at which anything counts
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from adhere.functional.fused import constrained_cross_entropy
from adhere.functional.head import Head, Kept, Tilt
from adhere.functional.target import tilt_line
from adhere.models.head import HeadInput
from adhere.training.prefix_reading import PrefixReading

if TYPE_CHECKING:
    from adhere.training.loss import Batch


class Held(NamedTuple):
    """A constraint at the output positions."""

    reading: PrefixReading
    held_N: Tensor  # bool: where it acts
    weight_N: Tensor  # λ times what the position counts


class FusedParts(NamedTuple):
    """Only `loss` receives a gradient."""

    loss: Tensor  # Σ corpus / its count + Σ regulariser / its count
    cross_entropy_BT: Tensor  # 0 where nothing counts
    kl: list[tuple[Tensor, Tensor]]  # surrogate [N] and value [N] of each constraint
    reference_N: Tensor  # KL(reference ‖ p) where a position is held near it


def fused_parts(
    read: HeadInput,
    batch: Batch,
    weight_BT: Tensor,
    held: Sequence[Held],
    counts: tuple[float, float],
    reference: tuple[Tensor, Head] | None,
    reference_weight_N: Tensor,
) -> FusedParts:
    """Both parts of the loss at once.

    Args:
        read: what the head has read, of the policy.
        weight_BT: what the cross-entropy counts.
        held: the constraints.
        counts: what the corpus loss and the regulariser are divided by.
        reference: hidden states [B, T, D] and head of the model before fine-tuning; None where nothing is held near it.
        reference_weight_N: what the KL to it counts at the output positions.
    """
    counted_BT = weight_BT != 0
    for each in held:
        counted_BT[batch.output_BT] |= each.held_N
    if reference is not None:
        counted_BT[batch.output_BT] |= reference_weight_N != 0
    at_N = counted_BT[batch.output_BT]  # which of the N are among the M
    number_BT = counted_BT.flatten().cumsum(0).view_as(counted_BT) - 1
    place_N, positions = number_BT[batch.output_BT][at_N], int(counted_BT.sum())

    def spread(of_N: Tensor, fill: float = 0) -> Tensor:
        of_M = of_N.new_full((positions, *of_N.shape[1:]), fill)
        of_M[place_N] = of_N[at_N]
        return of_M

    tilts = []
    for reading, held_N, weight_N in held:
        low_N, slope_N = tilt_line(reading.satisfaction_N, reading.target)
        table_VR, bias_V = reading.nado.token_table()
        tilts.append(
            Tilt(
                spread(reading.value_N), spread(reading.key_NR), table_VR, bias_V, spread(low_N), spread(slope_N, 1.0),
                spread(weight_N) / counts[1], spread(held_N), spread(torch.where(reading.known_N, reading.next_N, -1), -1),
                spread(reading.known_r_N),
            )
        )  # fmt: skip
    kept = None
    if reference is not None:
        kept = Kept(reference[0][counted_BT], reference[1], spread(reference_weight_N) / counts[1])
    found = constrained_cross_entropy(
        read.hidden_BTD[counted_BT], read.head, batch.next_BT[counted_BT], weight_BT[counted_BT] / counts[0], tilts,
        read.dtype, kept, read.triton,
    )  # fmt: skip
    cross_entropy_BT = torch.zeros_like(weight_BT)
    cross_entropy_BT[counted_BT] = found.cross_entropy_N.to(weight_BT.dtype)
    kl = []
    for surrogate_M, value_M in zip(found.surrogate_KN, found.value_KN, strict=True):
        pair = (surrogate_M.new_zeros(len(at_N)), value_M.new_zeros(len(at_N)))
        for of_N, of_M in zip(pair, (surrogate_M, value_M), strict=True):
            of_N[at_N] = of_M[place_N]
        kl.append(pair)
    reference_N = found.kept_N.new_zeros(len(at_N))
    reference_N[at_N] = found.kept_N[place_N]
    return FusedParts(found.loss, cross_entropy_BT, kl, reference_N)
