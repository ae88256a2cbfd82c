"""From the last hidden states straight to Σ c · cross-entropy + Σ_k m_k · KL(q*_k ‖ p) + μ · KL(p_ref ‖ p), with its gradients,
and no tensor of tokens × vocabulary in float32.

A chunk of tokens is taken at a time. Its logits are one matrix product, in the dtype of the model. Row by row they become p in
float32 (`fold`, `fold_triton`), R of every next token is told from NADO's low-rank form, and

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
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, Function, FunctionCtx, once_differentiable

from adhere.functional.fold import Fold, TorchFold
from adhere.functional.head import Head, Job, Kept, Tilt, Told

_ROWS_ON_CPU, _ROWS_ELSEWHERE = 512, 2048
"""Positions in a chunk: enough for the matrix products to run at full speed."""

_VOCABULARY_AT_A_TIME = 2**14
"""Rows of the head whose gradient is added up at a time, so that what is added is small."""


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
    triton: bool = False,
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
        triton: whether one Triton kernel takes the place of torch between the products. It computes in float32, so products
            in float64 stay with torch.

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
    job = Job(head, target_N, weight_N, tuple(tilts), dtype, torch.is_grad_enabled(), kept, triton)
    return FusedLoss(*_Fused.apply(hidden_ND, head.weight_VD, job))  # type: ignore[no-untyped-call]


class _Fused(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden_ND: Tensor, weight_VD: Tensor, job: Job) -> tuple[Tensor, ...]:
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
    hidden_ND: Tensor, weight_VD: Tensor, job: Job, hidden_wanted: bool, weight_wanted: bool
) -> tuple[Told, tuple[Tensor | None, Tensor | None]]:
    """The numbers of every position, and the gradients of hidden states and weight where they are wanted."""
    positions, vocabulary, exact = len(hidden_ND), len(weight_VD), job.exact
    chunks = max(1, -(-positions // (_ROWS_ON_CPU if hidden_ND.device.type == "cpu" else _ROWS_ELSEWHERE)))
    rows = -(-positions // chunks)
    head_VD = weight_VD.detach().to(job.dtype)
    told = Told(*(hidden_ND.new_zeros(*each, positions, dtype=exact) for each in ((), *[(len(job.tilts),)] * 2, ())))
    hidden_grad_ND = torch.empty_like(hidden_ND) if hidden_wanted else None
    weight_grad_VD = weight_VD.new_zeros(weight_VD.shape, dtype=exact) if weight_wanted else None
    buffer_NV = head_VD.new_empty(min(rows, positions), vocabulary)
    fold = _fold(job)
    for start in range(0, positions, max(1, rows)):
        chunk = slice(start, min(start + rows, positions))
        read_ND = hidden_ND[chunk].detach().to(job.dtype)
        logits_NV = torch.mm(read_ND, head_VD.T, out=buffer_NV[: len(read_ND)])
        fold(logits_NV, chunk, None if job.kept is None else _product(job.kept, chunk, job.dtype), told)
        if hidden_grad_ND is not None:
            hidden_grad_ND[chunk] = torch.mm(logits_NV, head_VD)
        if weight_grad_VD is not None:
            for low in range(0, vocabulary, _VOCABULARY_AT_A_TIME):
                part = slice(low, low + _VOCABULARY_AT_A_TIME)
                weight_grad_VD[part] += logits_NV[:, part].T @ read_ND
    if weight_grad_VD is not None:
        weight_grad_VD = weight_grad_VD.to(weight_VD.dtype)
    return told, (hidden_grad_ND, weight_grad_VD)


def _fold(job: Job) -> Fold:
    """What turns a chunk's logits into numbers and gradients."""
    if not job.triton or job.exact != torch.float32:
        return TorchFold(job)
    from adhere.functional.fold_triton import TritonFold

    return TritonFold(job)


def _product(kept: Kept, chunk: slice, dtype: torch.dtype) -> Tensor | None:
    """What the reference's head makes of what it reads; None where no position of the chunk is held near the reference."""
    if not bool((kept.weight_N[chunk] != 0).any()):
        return None
    return torch.mm(kept.hidden_ND[chunk].to(dtype), kept.head.weight_VD.detach().to(dtype).T)
