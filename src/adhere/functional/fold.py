"""What becomes of a chunk's logits: the numbers of its positions, and the gradient, which takes the place of the logits.

A few rows at a time, which stay in a CPU's cache. The formulas stand in `fused`.

N positions · V vocabulary · R rank · K constraints
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from adhere.functional.head import Job, Tilt, Told, finish
from adhere.functional.target import PROBABILITY_FLOOR

_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**19, 2**26
"""Elements worked on at a time: few enough to stay in a CPU's cache, enough to fill an accelerator."""

_ROWS_OF_A_PRODUCT = 64
"""Rows for which NADO's product is made at a time, at least: over fewer it is slow, over more it is large."""


class Fold(Protocol):
    """Writes into `told` what it finds of a chunk of positions, and over the logits [N, V] their gradient.

    `reference_NV` is the product of the reference's head, None where no position of the chunk is held near the reference.
    """

    def __call__(self, logits_NV: Tensor, chunk: slice, reference_NV: Tensor | None, told: Told) -> None: ...


class TorchFold:
    """By torch, wherever that runs.

    Args:
        job: what is asked.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tables = [_table(tilt, job.dtype) for tilt in job.tilts]

    def __call__(self, logits_NV: Tensor, chunk: slice, reference_NV: Tensor | None, told: Told) -> None:
        elements = _BLOCK_ON_CPU if logits_NV.device.type == "cpu" else _BLOCK_ELSEWHERE
        step = max(1, elements // logits_NV.shape[1])
        for group in _parts(range(len(logits_NV)), max(step, _ROWS_OF_A_PRODUCT)):
            keyed = self._products(slice(chunk.start + group.start, chunk.start + group.stop))
            for rows in _parts(group, step):
                inside = slice(rows.start, rows.stop)
                block = slice(chunk.start + rows.start, chunk.start + rows.stop)
                of_block = [each[rows.start - group.start : rows.stop - group.start] for each in keyed]
                product_NV = None if reference_NV is None else reference_NV[inside]
                found = _block(logits_NV[inside], block, self._job, of_block, product_NV)
                for all_N, block_N in zip(told, found, strict=True):
                    all_N[..., block] = block_N

    def _products(self, group: slice) -> list[Tensor]:
        """⟨key, table⟩ + bias of each constraint at these positions; without vocabulary where none of them is held."""
        products = []
        for tilt, table_RV in zip(self._job.tilts, self._tables, strict=True):
            key_NR = torch.nn.functional.pad(tilt.key_NR[group], (0, 1), value=1.0).to(self._job.dtype)
            held = bool(tilt.held_N[group].any())
            products.append(torch.mm(key_NR, table_RV) if held else key_NR[:, :0])
        return products


def _parts(rows: range, size: int) -> list[range]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _table(tilt: Tilt, dtype: torch.dtype) -> Tensor:
    """[R + 1, V]: what a key and a 1 are multiplied with."""
    return torch.cat([tilt.table_VR.to(dtype), tilt.bias_V.to(dtype)[:, None]], 1).T


def _block(
    logits_NV: Tensor, block: slice, job: Job, keyed: list[Tensor], product_NV: Tensor | None
) -> tuple[Tensor, ...]:
    """Of a few rows cross-entropy [N], surrogates [K, N], values [K, N] and KL to the reference [N].

    The gradient of the logits takes their place.
    """
    x_NV, slope_NV = finish(logits_NV.to(job.exact, copy=True), job.head)
    target_N1, c_N = job.target_N[block, None], job.weight_N[block].to(job.exact)
    p_NV = torch.softmax(x_NV, -1)
    # The largest entry of a softmax is exp(max − logsumexp): no further pass of exponentials is needed.
    log_sum_N = x_NV.amax(-1) - p_NV.amax(-1).log()
    ce_N = log_sum_N - x_NV.gather(1, target_N1).squeeze(1)
    surrogate_KN, value_KN = (ce_N.new_zeros(len(keyed), len(ce_N)) for _ in range(2))
    factor_N, tilts_NV = c_N.clone(), None
    kept_N, reference_NV = torch.zeros_like(ce_N), None
    if job.kept is not None and product_NV is not None:
        mu_N = job.kept.weight_N[block].to(job.exact)
        kl_N, reference_NV = _compare(finish(product_NV.to(job.exact), job.kept.head)[0], x_NV, log_sum_N)
        kept_N, factor_N = torch.where(mu_N != 0, kl_N, kept_N), factor_N + mu_N
        reference_NV.mul_(mu_N[:, None])
    for k, (tilt, keyed_NV) in enumerate(zip(job.tilts, keyed, strict=True)):
        if not bool(tilt.held_N[block].any()):
            continue
        w_NV = _w(tilt, keyed_NV, block, job)
        tilted_NV = torch.mul(p_NV, w_NV, out=x_NV if tilts_NV is None else None)
        z_N, held_N = tilted_NV.sum(-1), tilt.held_N[block]
        log_z_N = z_N.log()
        # Rounding alone can make a KL of nearly zero negative.
        value_N = (torch.linalg.vecdot(tilted_NV, _log_(w_NV)) / z_N - log_z_N).clamp_(min=0.0)
        surrogate_KN[k], value_KN[k] = -log_z_N * held_N, value_N * held_N
        m_N = tilt.weight_N[block].to(job.exact)
        factor_N += m_N
        tilted_NV.mul_((-m_N / z_N)[:, None])
        tilts_NV = tilted_NV if tilts_NV is None else tilts_NV.add_(tilted_NV)
    if tilts_NV is None:
        p_NV.mul_(factor_N[:, None])
    else:
        torch.addcmul(tilts_NV, p_NV, factor_N[:, None], out=p_NV)
    p_NV.scatter_add_(1, target_N1, -c_N[:, None])
    if reference_NV is not None:
        p_NV.sub_(reference_NV)
    logits_NV.copy_(p_NV if slope_NV is None else p_NV.mul_(slope_NV))
    return ce_N, surrogate_KN, value_KN, kept_N


def _compare(y_NV: Tensor, x_NV: Tensor, log_sum_N: Tensor) -> tuple[Tensor, Tensor]:
    """KL(reference ‖ p) and the reference's probabilities, from both models' logits and the policy's logsumexp."""
    reference_NV = torch.softmax(y_NV, -1)
    reference_sum_N = y_NV.amax(-1) - reference_NV.amax(-1).log()
    kl_N = torch.linalg.vecdot(reference_NV, y_NV.sub_(x_NV)) - reference_sum_N + log_sum_N
    return kl_N.clamp_(min=0.0), reference_NV


def _w(tilt: Tilt, keyed_NV: Tensor, block: slice, job: Job) -> Tensor:
    """W of every next token at these positions."""
    logit_NV = torch.add(tilt.value_N[block, None].to(job.exact), keyed_NV)
    r_NV = logit_NV.sigmoid_().clamp_(min=PROBABILITY_FLOOR)
    token_N1 = tilt.known_token_N[block, None]
    known_N1, at_N1 = tilt.known_r_N[block, None].to(job.exact), token_N1.clamp(min=0)
    r_NV.scatter_(1, at_N1, torch.where(token_N1 >= 0, known_N1.clamp(PROBABILITY_FLOOR, 1.0), r_NV.gather(1, at_N1)))
    r_NV.mul_(tilt.slope_N[block, None].to(job.exact))
    low_N1: Any = tilt.low_N[block, None].to(job.exact)
    return r_NV.add_(low_N1) if bool(low_N1.any()) else r_NV


def _log_(w_NV: Tensor) -> Tensor:
    """The logarithm, in place.

    numpy's uses the vector instructions that torch's leaves alone (5 ms against 16 for 384 × 49,152 on one thread), but only
    one thread.
    """
    if w_NV.device.type == "cpu" and w_NV.dtype == torch.float32 and torch.get_num_threads() <= 2:
        import numpy as np

        view = w_NV.numpy()
        np.log(view, out=view)
        return w_NV
    return w_NV.log_()
