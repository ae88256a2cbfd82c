"""What the fused head is given: a model's head, constraints and a reference model at the positions of a batch.

N positions · V vocabulary · D width · R rank
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Head:
    """What turns last hidden states into logits: cap · tanh(scale · ⟨h, w_v⟩ / cap), without the cap where there is none."""

    weight_VD: Tensor
    scale: float = 1.0
    cap: float | None = None


@dataclass(frozen=True, slots=True)
class Tilt:
    """W of one constraint at every position, in NADO's low-rank form, and what its KL counts there.

    logit R(v) = value + ⟨key, table_v⟩ + bias_v, but for the one token of a position, if any, whose R is known.
    """

    value_N: Tensor
    key_NR: Tensor
    table_VR: Tensor
    bias_V: Tensor
    low_N: Tensor  # β
    slope_N: Tensor  # α − β
    weight_N: Tensor  # m: of the KL's gradient
    held_N: Tensor  # bool: where the KL is wanted; 0 is told elsewhere
    known_token_N: Tensor  # the token whose R is known, −1 where there is none
    known_r_N: Tensor


@dataclass(frozen=True, slots=True)
class Kept:
    """The model that positions are held near, by KL(reference ‖ p): what its head reads there, and what that KL counts."""

    hidden_ND: Tensor
    head: Head
    weight_N: Tensor  # 0 where the position is not held near it


@dataclass(frozen=True, slots=True)
class Job:
    """All of it, and how it is to be computed."""

    head: Head
    target_N: Tensor
    weight_N: Tensor  # c: of the cross-entropy
    tilts: tuple[Tilt, ...]
    dtype: torch.dtype  # of the matrix products
    with_gradient: bool
    kept: Kept | None
    triton: bool

    @property
    def exact(self) -> torch.dtype:
        """The dtype of p, R and the sums."""
        return torch.promote_types(self.dtype, torch.float32)


class Told(NamedTuple):
    """What becomes known of every position."""

    cross_entropy_N: Tensor
    surrogate_KN: Tensor  # −log Z
    value_KN: Tensor  # KL(q* ‖ p)
    kept_N: Tensor  # KL(reference ‖ p)


def finish(product_NV: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """What the model makes of the product with its head, in place, and its derivative where that is not 1."""
    if head.cap is not None:
        product_NV.mul_(head.scale / head.cap).tanh_()
        slope_NV = (1.0 - product_NV.square()).mul_(head.scale)
        return product_NV.mul_(head.cap), slope_NV
    if head.scale != 1.0:
        return product_NV.mul_(head.scale), torch.full_like(product_NV[:1, :1], head.scale)
    return product_NV, None
