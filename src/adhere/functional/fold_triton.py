"""The same as `fold`, by one Triton kernel: a program takes a row of the logits and passes over its vocabulary twice.

In the first pass the sums are kept relative to the largest logit so far, and corrected when a larger one comes:

    Σ_v e^x,   Σ_v e^x W_k,   Σ_v e^x W_k log W_k,   and of a reference model's logits y   Σ_v e^y,   Σ_v e^y (y − x)

They give all numbers of the position. In the second pass the gradient is written over the logits. Everything between reading
and writing is float32. The products of keys and token tables are made beforehand by torch, a chunk of positions at a time.

Whatever imports this module needs Triton. Where TRITON_INTERPRET=1 is set before, the kernel runs on a CPU, slowly, for tests.

N positions · V vocabulary · R rank, with what fills it up to a multiple of 8 · K constraints, in the kernel a power of two
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from adhere.functional.target import PROBABILITY_FLOOR

if TYPE_CHECKING:
    from torch import Tensor

    from adhere.functional.head import Job, Told

_FLOOR = tl.constexpr(PROBABILITY_FLOOR)
_LOWEST = tl.constexpr(-3e38)  # the logit of a token that is none: e^x is 0, and differences of two are numbers

_TILE = 2048
"""Tokens that a program works on at a time; with more than four constraints fewer, or they would not fit its registers."""

_ALIGNED = 8
"""Matrix products run at full speed where rows are so many elements long, or a multiple of it."""


class TritonFold:
    """By one kernel on an NVIDIA GPU.

    Args:
        job: what is asked; its products in float32 or less.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tables = [_aligned(tilt.table_VR, tilt.bias_V, job.dtype).T for tilt in job.tilts]
        self._of_position = (job.target_N, *(each.float().contiguous() for each in self._counts()))
        self._of_constraint = (
            *(self._stack(name).float() for name in ("value_N", "low_N", "slope_N", "weight_N")),
            self._stack("held_N").to(torch.int8), self._stack("known_token_N"), self._stack("known_r_N").float(),
        )  # fmt: skip
        self._term_KNV: Tensor | None = None

    def __call__(self, logits_NV: Tensor, chunk: slice, reference_NV: Tensor | None, told: Told) -> None:
        job, (rows, vocabulary) = self._job, logits_NV.shape
        padded = triton.next_power_of_2(max(1, len(job.tilts)))
        reference = job.head if job.kept is None else job.kept.head
        with torch.cuda.device_of(logits_NV):
            _fold[(rows,)](
                logits_NV, self._terms(logits_NV, chunk), logits_NV if reference_NV is None else reference_NV,
                *self._of_position, *self._of_constraint, *told,
                chunk.start, len(job.target_N), rows * vocabulary, vocabulary,
                *(float(number) for head in (job.head, reference) for number in (head.scale, head.cap or 1)),
                CONSTRAINTS=len(job.tilts), PADDED=padded, CAPPED=job.head.cap is not None, KEPT=reference_NV is not None,
                REFERENCE_CAPPED=reference.cap is not None, GRADIENT=job.with_gradient, **launch(padded),
            )  # fmt: skip

    def _counts(self) -> tuple[Tensor, Tensor]:
        """What cross-entropy and KL to the reference count."""
        weight_N = self._job.weight_N
        return weight_N, torch.zeros_like(weight_N) if self._job.kept is None else self._job.kept.weight_N

    def _stack(self, name: str) -> Tensor:
        """[K, N]: this of every constraint."""
        each = [getattr(tilt, name) for tilt in self._job.tilts]
        return torch.stack(each) if each else self._job.weight_N.new_zeros(0, len(self._job.weight_N))

    def _terms(self, logits_NV: Tensor, chunk: slice) -> Tensor:
        """[K, N, V]: of logit R all but the value, in memory that serves one chunk after the other."""
        job, (rows, vocabulary) = self._job, logits_NV.shape
        size = len(job.tilts) * rows * vocabulary
        if self._term_KNV is None or self._term_KNV.numel() < size:
            self._term_KNV = logits_NV.new_empty(size)
        term_KNV = self._term_KNV[:size].view(len(job.tilts), rows, vocabulary)
        for tilt, table_RV, term_NV in zip(job.tilts, self._tables, term_KNV, strict=True):
            torch.mm(_aligned(tilt.key_NR[chunk], 1.0, job.dtype), table_RV, out=term_NV)
        return term_KNV


def launch(padded: int) -> dict[str, int]:
    """Tokens a tile and warps a program, so that on sm_80 and sm_90 what it holds fits into registers."""
    return {"TILE": max(1, min(_TILE, 4 * _TILE // padded)), "num_warps": 8 if padded <= 2 else 16}


def _aligned(part_NR: Tensor, last_N: Tensor | float, dtype: torch.dtype) -> Tensor:
    """The columns, one more, and zeros up to a length that matrix products like."""
    rank = part_NR.shape[1] + 1
    of_NR = part_NR.new_zeros(len(part_NR), -(-rank // _ALIGNED) * _ALIGNED, dtype=dtype)
    of_NR[:, : rank - 1], of_NR[:, rank - 1] = part_NR, last_N
    return of_NR


@triton.jit  # type: ignore[untyped-decorator]
def _finished(product, scale, cap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits (`head.finish`)."""
    if CAPPED:
        bent = product.to(tl.float32) * (scale / cap)
        shrunk = tl.exp(-2.0 * tl.abs(bent))
        size = cap * (1.0 - shrunk) / (1.0 + shrunk)  # tanh, of which nothing overflows
        logits = tl.where(bent < 0.0, -size, size)
    else:
        logits = product.to(tl.float32) * scale
    return logits


@triton.jit
def _w(term, value, low, slope, is_known, known):  # type: ignore[no-untyped-def]
    """W = β + (α − β)·R. Comparisons, not maxima, which would make a number of what is none."""
    r = 1.0 / (1.0 + tl.exp(-(value + term.to(tl.float32))))
    r = tl.where(is_known, known, r)
    return low + slope * tl.where(r < _FLOOR, _FLOOR, r)


@triton.jit(do_not_specialize=["start", "positions"])  # type: ignore[untyped-decorator]
def _fold(  # type: ignore[no-untyped-def]
    logits_NV, term_KNV, reference_NV, target_N, count_N, near_N,
    value_KN, low_KN, slope_KN, weight_KN, held_KN, token_KN, known_KN,
    cross_entropy_N, surrogate_KN, kl_KN, kept_N,
    start, positions, term_stride, vocabulary,
    scale, cap, reference_scale, reference_cap,
    CONSTRAINTS: tl.constexpr, PADDED: tl.constexpr, CAPPED: tl.constexpr, KEPT: tl.constexpr,
    REFERENCE_CAPPED: tl.constexpr, GRADIENT: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """The first three are a chunk's, from its first position; the others are of all positions, the chunk's from `start` on.

    `start` and `positions` differ from batch to batch, and the kernel is not compiled anew for them.
    """
    row = tl.program_id(0).to(tl.int64)
    at = start + row
    logits_NV += row * vocabulary
    reference_NV += row * vocabulary
    lane = tl.arange(0, TILE)[None, :]

    # What is not held is not read: neither the constraints that only fill up, nor those that do not act here.
    k = tl.arange(0, PADDED)[:, None].to(tl.int64)
    of_k = k * positions + at
    held = tl.load(held_KN + of_k, mask=k < CONSTRAINTS, other=0) != 0
    value, low = tl.load(value_KN + of_k, mask=held, other=0.0), tl.load(low_KN + of_k, mask=held, other=0.0)
    slope, weight = tl.load(slope_KN + of_k, mask=held, other=1.0), tl.load(weight_KN + of_k, mask=held, other=0.0)
    token = tl.load(token_KN + of_k, mask=held, other=-1).to(tl.int32)
    known = tl.load(known_KN + of_k, mask=held, other=1.0)
    known = tl.where(known > 1.0, 1.0, known)
    term_KNV += k * term_stride + row * vocabulary

    target, count, near = tl.load(target_N + at).to(tl.int32), tl.load(count_N + at), tl.load(near_N + at)
    read_until = tl.where(near != 0.0, vocabulary, 0)  # of the reference
    aim = _finished(tl.load(logits_NV + target), scale, cap, CAPPED)

    top, total = float("-inf"), 0.0
    tilted_sum, log_sum = tl.zeros([PADDED, 1], tl.float32), tl.zeros([PADDED, 1], tl.float32)
    share, pull = tl.zeros([PADDED, 1], tl.float32), 0.0
    reference_top, reference_total, apart = float("-inf"), 0.0, 0.0
    for first in range(0, vocabulary, TILE):
        v = first + lane
        inside = v < vocabulary
        x = _finished(tl.load(logits_NV + v, mask=inside, other=0.0), scale, cap, CAPPED)
        x = tl.where(inside, x, _LOWEST)
        higher = tl.maximum(top, tl.max(x))
        less, e = tl.exp(top - higher), tl.exp(x - higher)
        top, total = higher, total * less + tl.sum(e)
        if CONSTRAINTS > 0:
            term = tl.load(term_KNV + v, mask=inside & held, other=0.0)
            w = _w(term, value, low, slope, v == token, known)
            tilted = e * w
            tilted_sum = tilted_sum * less + tl.sum(tilted, 1, keep_dims=True)
            log_sum = log_sum * less + tl.sum(tilted * tl.log(w), 1, keep_dims=True)
        if KEPT:
            read = tl.load(reference_NV + v, mask=v < read_until, other=0.0)
            y = _finished(read, reference_scale, reference_cap, REFERENCE_CAPPED)
            y = tl.where(inside, y, _LOWEST)
            higher = tl.maximum(reference_top, tl.max(y))
            less, e = tl.exp(reference_top - higher), tl.exp(y - higher)
            reference_top, reference_total = higher, reference_total * less + tl.sum(e)
            apart = apart * less + tl.sum(e * (y - x))

    log_total = top + tl.log(total)
    tl.store(cross_entropy_N + at, log_total - aim)
    if CONSTRAINTS > 0:
        z = tilted_sum / total
        share = weight / z
        kl = log_sum / tilted_sum - tl.log(z)
        kl = tl.where(kl < 0.0, 0.0, kl)  # rounding alone can make a KL of nearly zero negative
        tl.store(surrogate_KN + of_k, tl.where(held, -tl.log(z), 0.0), mask=k < CONSTRAINTS)
        tl.store(kl_KN + of_k, tl.where(held, kl, 0.0), mask=k < CONSTRAINTS)
    if KEPT:
        kl_near = apart / reference_total - (reference_top + tl.log(reference_total)) + log_total
        kl_near = tl.where(kl_near < 0.0, 0.0, kl_near)
        pull = near / reference_total
        tl.store(kept_N + at, tl.where(near != 0.0, kl_near, 0.0))

    if GRADIENT:
        tl.debug_barrier()  # no thread writes over a logit that another has yet to read
        factor = count + tl.sum(weight) + near
        one = 1.0 / total
        for first in range(0, vocabulary, TILE):
            v = first + lane
            inside = v < vocabulary
            x = _finished(tl.load(logits_NV + v, mask=inside, other=0.0), scale, cap, CAPPED)
            counted = tl.zeros_like(x) + factor
            if CONSTRAINTS > 0:
                term = tl.load(term_KNV + v, mask=inside & held, other=0.0)
                counted -= tl.sum(share * _w(term, value, low, slope, v == token, known), 0, keep_dims=True)
            gradient = tl.exp(x - top) * one * counted - tl.where(v == target, count, 0.0)
            if KEPT:
                read = tl.load(reference_NV + v, mask=v < read_until, other=0.0)
                y = _finished(read, reference_scale, reference_cap, REFERENCE_CAPPED)
                gradient -= tl.exp(y - reference_top) * pull
            gradient *= scale
            if CAPPED:
                gradient *= 1.0 - (x / cap) * (x / cap)
            tl.store(logits_NV + v, gradient, mask=inside)
