"""From the last hidden states straight to Σ c · cross-entropy + Σ_k m_k · KL(q*_k ‖ p) + μ · KL(p_ref ‖ p), with its gradients,
and no tensor of tokens × vocabulary in float32.

A chunk of tokens is taken at a time. Its logits are one matrix product, in the dtype of the model. A few rows at a time, which
stay in cache, they become p in float32, R of every next token is told from NADO's low-rank form, and

    W = β + (α − β)·R,   Z = Σ_v p_v W_v,   −log Z,   value = Σ_v p_v W_v log W_v / Z − log Z        (method.md §2)
    ∂/∂logits = c·(p − 1[target]) + Σ_k m_k·(p − p·W_k / Z_k) = p·(c + Σ_k m_k − Σ_k (m_k / Z_k)·W_k) − c·1[target]

Where a position is held to a reference model, p_ref is made in the same way of what that model's head read, and μ·(p − p_ref)
is added. The whole is formed in float32 and written over the logits, which the last two products turn into the gradients of the
hidden states and of the head. They are made in the forward pass: computing the logits again in the backward pass would cost a
fourth product. Since R is at least `PROBABILITY_FLOOR`, Z is above 1e-36, and products are as good as sums of logs.

N positions · V vocabulary · D width · R rank · K constraints
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, Function, FunctionCtx, once_differentiable

from adhere.functional.target import PROBABILITY_FLOOR

_ROWS_ON_CPU, _ROWS_ELSEWHERE = 512, 2048
"""Positions in a chunk: enough for the matrix products to run at full speed."""

_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**20, 2**26
"""Elements worked on at a time: few enough to stay in a CPU's cache, enough to fill an accelerator."""

_VOCABULARY_AT_A_TIME = 2**14
"""Rows of the head whose gradient is added up at a time, so that what is added is small."""


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


class FusedLoss(NamedTuple):
    """What `constrained_cross_entropy` tells; only the first receives a gradient."""

    loss: Tensor  # Σ c · cross-entropy + Σ_k Σ m_k · surrogate_k + Σ μ · KL(reference ‖ p)
    cross_entropy_N: Tensor
    surrogate_KN: Tensor  # −log Z, whose gradient is p − q*
    value_KN: Tensor  # KL(q* ‖ p)
    kept_N: Tensor  # KL(reference ‖ p); 0 where the position is not held near it


def constrained_cross_entropy(
    hidden_ND: Tensor,
    head: Head,
    target_N: Tensor,
    weight_N: Tensor,
    tilts: Sequence[Tilt],
    dtype: torch.dtype | None = None,
    kept: Kept | None = None,
) -> FusedLoss:
    """Corpus loss and regulariser (`live`) of positions whose last hidden states are given.

    Args:
        hidden_ND: what the head reads. Receives a gradient.
        head: its weight receives a gradient if it wants one: not where an adapter is trained.
        target_N: the token that follows.
        weight_N: c, what the cross-entropy counts; 0 where the token is not learned.
        tilts: of each constraint; none for the cross-entropy alone.
        dtype: of the matrix products, for example bfloat16; that of the weight without it. In half precision NADO's
            low-rank term is rounded too; its value, R, p and everything made of them are float32.
        kept: the reference model, where some position is held near it.

    Returns:
        the loss, differentiable once, and the numbers that it is made of, float32 or wider.

    Raises:
        ValueError: float16, in which small gradients would be lost before a loss scaler could save them.

    Example:
        >>> half = torch.zeros(1)
        >>> r = torch.tensor([[1e-4, 1 - 1e-4]]).logit()
        >>> tilt = Tilt(half, torch.ones(1, 1), r.T, torch.zeros(2), half, half + 2, half + 1, half == 0, half.long() - 1, half)
        >>> found = constrained_cross_entropy(torch.zeros(1, 1), Head(torch.ones(2, 1)), half.long(), half + 1, [tilt])
        >>> [round(x.item(), 3) for x in (found.loss, found.cross_entropy_N, found.value_KN)]
        [0.693, 0.693, 0.692]
    """
    dtype = dtype or head.weight_VD.dtype
    if dtype == torch.float16:
        raise ValueError("the fused head works in bfloat16, float32 or wider, not in float16")
    job = _Job(head, target_N, weight_N, tuple(tilts), dtype, torch.is_grad_enabled(), kept)
    return FusedLoss(*_Fused.apply(hidden_ND, head.weight_VD, job))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Job:
    head: Head
    target_N: Tensor
    weight_N: Tensor
    tilts: tuple[Tilt, ...]
    dtype: torch.dtype
    with_gradient: bool
    kept: Kept | None

    @property
    def exact(self) -> torch.dtype:
        """The dtype of p, R and the sums."""
        return torch.promote_types(self.dtype, torch.float32)


class _Fused(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden_ND: Tensor, weight_VD: Tensor, job: _Job) -> tuple[Tensor, ...]:
        wanted: tuple[bool, ...] = ctx.needs_input_grad  # type: ignore[attr-defined]
        with torch.autocast(hidden_ND.device.type, enabled=False):
            told, gradients = _run(
                hidden_ND, weight_VD, job, wanted[0] and job.with_gradient, wanted[1] and job.with_gradient
            )
        ctx.gradients = gradients  # type: ignore[attr-defined]
        ce_N, surrogate_KN, value_KN, kept_N = told
        loss = (job.weight_N * ce_N).sum()
        for tilt, surrogate_N in zip(job.tilts, surrogate_KN, strict=True):
            loss = loss + (tilt.weight_N * surrogate_N).sum()
        if job.kept is not None:
            loss = loss + (job.kept.weight_N * kept_N).sum()
        ctx.mark_non_differentiable(ce_N, surrogate_KN, value_KN, kept_N)
        return loss, ce_N, surrogate_KN, value_KN, kept_N

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradients: tuple[Tensor | None, Tensor | None] | None = ctx.gradients  # type: ignore[attr-defined]
        if gradients is None:
            raise RuntimeError("the gradients of the fused head can be asked for once; they are not kept")
        # Handed over, not kept: autograd may then take them as they are, instead of copying a gradient as large as the head.
        hidden_ND, weight_VD = gradients
        ctx.gradients = None  # type: ignore[attr-defined]
        if float(grad) != 1.0:
            hidden_ND = None if hidden_ND is None else hidden_ND.mul_(grad)
            weight_VD = None if weight_VD is None else weight_VD.mul_(grad)
        return hidden_ND, weight_VD, None


def _run(
    hidden_ND: Tensor, weight_VD: Tensor, job: _Job, hidden_wanted: bool, weight_wanted: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, Tensor | None]]:
    """The numbers of every position, and the gradients of hidden states and weight where they are wanted."""
    positions, vocabulary, exact = len(hidden_ND), len(weight_VD), job.exact
    on_cpu = hidden_ND.device.type == "cpu"
    chunks = max(1, -(-positions // (_ROWS_ON_CPU if on_cpu else _ROWS_ELSEWHERE)))
    rows = -(-positions // chunks)
    step = max(1, (_BLOCK_ON_CPU if on_cpu else _BLOCK_ELSEWHERE) // vocabulary)
    head_VD = weight_VD.detach().to(job.dtype)
    tables = [_table(tilt, job.dtype) for tilt in job.tilts]
    ce_N = hidden_ND.new_zeros(positions, dtype=exact)
    surrogate_KN, value_KN = (ce_N.new_zeros(len(tables), positions) for _ in range(2))
    kept_N = torch.zeros_like(ce_N)
    hidden_grad_ND = torch.empty_like(hidden_ND) if hidden_wanted else None
    weight_grad_VD = weight_VD.new_zeros(weight_VD.shape, dtype=exact) if weight_wanted else None
    buffer_NV = head_VD.new_empty(min(rows, positions), vocabulary)
    for start in range(0, positions, max(1, rows)):
        chunk = slice(start, min(start + rows, positions))
        read_ND = hidden_ND[chunk].detach().to(job.dtype)
        logits_NV = torch.mm(read_ND, head_VD.T, out=buffer_NV[: len(read_ND)])
        product_NV = None if job.kept is None else _product(job.kept, chunk, job.dtype)
        for first in range(start, chunk.stop, step):
            block = slice(first, min(first + step, chunk.stop))
            inside = slice(first - start, block.stop - start)
            told = _block(logits_NV[inside], block, job, tables, None if product_NV is None else product_NV[inside])
            ce_N[block], surrogate_KN[:, block], value_KN[:, block], kept_N[block] = told
        if hidden_grad_ND is not None:
            hidden_grad_ND[chunk] = torch.mm(logits_NV, head_VD)
        if weight_grad_VD is not None:
            for low in range(0, vocabulary, _VOCABULARY_AT_A_TIME):
                part = slice(low, low + _VOCABULARY_AT_A_TIME)
                weight_grad_VD[part] += logits_NV[:, part].T @ read_ND
    if weight_grad_VD is not None:
        weight_grad_VD = weight_grad_VD.to(weight_VD.dtype)
    return (ce_N, surrogate_KN, value_KN, kept_N), (hidden_grad_ND, weight_grad_VD)


def _table(tilt: Tilt, dtype: torch.dtype) -> Tensor:
    """[R + 1, V]: what a key and a 1 are multiplied with."""
    return torch.cat([tilt.table_VR.to(dtype), tilt.bias_V.to(dtype)[:, None]], 1).T


def _product(kept: Kept, chunk: slice, dtype: torch.dtype) -> Tensor | None:
    """What the reference's head makes of what it reads; None where no position of the chunk is held near the reference."""
    if not bool((kept.weight_N[chunk] != 0).any()):
        return None
    return torch.mm(kept.hidden_ND[chunk].to(dtype), kept.head.weight_VD.detach().to(dtype).T)


def _block(
    logits_NV: Tensor, block: slice, job: _Job, tables: list[Tensor], product_NV: Tensor | None
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
    surrogate_KN, value_KN = (ce_N.new_zeros(len(tables), len(ce_N)) for _ in range(2))
    factor_N, factor_NV = c_N.clone(), None
    kept_N, reference_NV = torch.zeros_like(ce_N), None
    if job.kept is not None and product_NV is not None:
        mu_N = job.kept.weight_N[block].to(job.exact)
        kl_N, reference_NV = _compare(finish(product_NV.to(job.exact), job.kept.head)[0], x_NV, log_sum_N)
        kept_N, factor_N = torch.where(mu_N != 0, kl_N, kept_N), factor_N + mu_N
        reference_NV.mul_(mu_N[:, None])
    for k, (tilt, table_RV) in enumerate(zip(job.tilts, tables, strict=True)):
        if not bool(tilt.held_N[block].any()):
            continue
        w_NV = _w(tilt, table_RV, block, job)
        tilted_NV = torch.mul(p_NV, w_NV, out=x_NV)
        z_N, held_N = tilted_NV.sum(-1), tilt.held_N[block]
        m_N = tilt.weight_N[block].to(job.exact)
        factor_N += m_N
        share_NV = w_NV * (-m_N / z_N)[:, None]
        factor_NV = share_NV if factor_NV is None else factor_NV.add_(share_NV)
        log_z_N = z_N.log()
        # Rounding alone can make a KL of nearly zero negative.
        value_N = (torch.linalg.vecdot(tilted_NV, _log_(w_NV)) / z_N - log_z_N).clamp_(min=0.0)
        surrogate_KN[k], value_KN[k] = -log_z_N * held_N, value_N * held_N
    p_NV.mul_(factor_N[:, None] if factor_NV is None else factor_NV.add_(factor_N[:, None]))
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


def finish(product_NV: Tensor, head: Head) -> tuple[Tensor, Tensor | None]:
    """What the model makes of the product with its head, in place, and its derivative where that is not 1."""
    if head.cap is not None:
        product_NV.mul_(head.scale / head.cap).tanh_()
        slope_NV = (1.0 - product_NV.square()).mul_(head.scale)
        return product_NV.mul_(head.cap), slope_NV
    if head.scale != 1.0:
        return product_NV.mul_(head.scale), torch.full_like(product_NV[:1, :1], head.scale)
    return product_NV, None


def _w(tilt: Tilt, table_RV: Tensor, block: slice, job: _Job) -> Tensor:
    """W of every next token at these positions."""
    key_NR = torch.nn.functional.pad(tilt.key_NR[block], (0, 1), value=1.0).to(job.dtype)
    logit_NV = torch.add(tilt.value_N[block, None].to(job.exact), torch.mm(key_NR, table_RV))
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
