"""The regulariser KL(q* ‖ p) per position, and what to minimise in its place.

Axes: `B` batch, `T` time, `V` vocabulary. The gradient of the regulariser is p − q* in every form, because q* is held
fixed. A vocabulary of 50,000 makes every intermediate result the size of the logits, so the sums are taken over a few
rows at a time, which stay in cache, and p − q* is written once and kept for the backward pass: 384 × 49,152 float32 on
two CPU threads, forward and backward, in 74 ms against 337 ms by autograd through two logsumexps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, Function, FunctionCtx, once_differentiable

from adhere.functional.target import at_least_float32

_BLOCK_ON_CPU = 2**20
_BLOCK_ELSEWHERE = 2**26
"""Elements worked on at a time: few enough to stay in a CPU's cache, enough to fill an accelerator."""

_LOWEST_LOGIT = -1e30


def constrained_kl(
    logits_BTV: Tensor, log_w_BTV: Tensor, anchor_logits_BTV: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """KL(q* ‖ p) at every position: what to minimise, and what to log.

        value     Σ_v q*_v log W_v − log Z,   log Z = logsumexp(logits + log W) − logsumexp(logits)
        gradient  p − q*                                                                  (method.md §2)

    Without an anchor q* is built on the model as it is now and held fixed (`live`). The surrogate is then the number
    −log Z, whose gradient is p − q*; it is not the KL. With an anchor (`iteration`, `reference`: the logits of the
    model that q* is built on) the KL itself has that gradient, and the surrogate is the value.

    For an exact R the live gradient, summed over prefixes of q*, is that of δ log(δ/r) + (1 − δ) log((1 − δ)/(1 − r)),
    the Bernoulli KL from target to satisfaction; for δ = 1 that is −log r, minus the log probability of satisfaction.

    Args:
        logits_BTV: logits of the model being trained, any floating dtype, two axes or more, vocabulary last. The only
            input that receives a gradient.
        log_w_BTV: log W of the same shape, finite, from `log_tilt`.
        anchor_logits_BTV: logits of the anchor model, same shape, or None for `live`.

    Returns:
        surrogate_BT, differentiable in the logits, and value_BT ≥ 0, without gradient for `live` and the same tensor as
        the surrogate otherwise. Both float32 or wider, whatever the dtype of the logits.

    Raises:
        ValueError: the shapes differ, or there are fewer than two axes.

    Example:
        >>> p, w = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0001, 1.9999]])
        >>> logits = p.log().requires_grad_()
        >>> surrogate, value = constrained_kl(logits, w.log())
        >>> surrogate.sum().backward()
        >>> [round(x, 3) for x in logits.grad[0].tolist()], round(value.item(), 3)  # p − q*, KL(q* ‖ p)
        ([0.5, -0.5], 0.693)
    """
    if anchor_logits_BTV is None:
        _require_same_shape(logits_BTV, log_w_BTV)
        surrogate_BT, value_BT = _LiveKL.apply(logits_BTV, log_w_BTV)  # type: ignore[no-untyped-call]
        return surrogate_BT, value_BT
    _require_same_shape(logits_BTV, log_w_BTV, anchor_logits_BTV)
    value_BT = _AnchoredKL.apply(logits_BTV, log_w_BTV, anchor_logits_BTV)  # type: ignore[no-untyped-call]
    return value_BT, value_BT


def kl_to(logits_BTV: Tensor, reference_logits_BTV: Tensor) -> Tensor:
    """KL(reference ‖ p) at every position: the regulariser of a domain that should not move (method.md §5).

    Args:
        logits_BTV: logits of the model being trained, any floating dtype, two axes or more, vocabulary last.
        reference_logits_BTV: logits of the reference model, same shape; no gradient flows into them.

    Returns:
        value_BT ≥ 0, differentiable in the logits (gradient p − reference), float32 or wider.

    Raises:
        ValueError: the shapes differ, or there are fewer than two axes.

    Example:
        >>> kl_to(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log())
        tensor([0.6931])
    """
    _require_same_shape(logits_BTV, reference_logits_BTV)
    value_BT: Tensor = _AnchoredKL.apply(logits_BTV, None, reference_logits_BTV)  # type: ignore[no-untyped-call]
    return value_BT


class _LiveKL(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, logits_BTV: Tensor, log_w_BTV: Tensor) -> tuple[Tensor, Tensor]:
        log_z_BT, value_BT = _compare(ctx, logits_BTV, log_w_BTV, None)
        ctx.mark_non_differentiable(value_BT)
        return -log_z_BT, value_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, grad_BT: Tensor, _: Tensor) -> tuple[Tensor | None, None]:
        return _logits_gradient(ctx, grad_BT), None


class _AnchoredKL(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, logits_BTV: Tensor, log_w_BTV: Tensor | None, anchor_BTV: Tensor) -> Tensor:
        _, value_BT = _compare(ctx, logits_BTV, log_w_BTV, anchor_BTV)
        return value_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, grad_BT: Tensor) -> tuple[Tensor | None, None, None]:
        return _logits_gradient(ctx, grad_BT), None, None


def _compare(
    ctx: FunctionCtx, logits_BTV: Tensor, log_w_BTV: Tensor | None, anchor_BTV: Tensor | None
) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p) with q ∝ exp(anchor + log W), and the difference of the two logsumexps: log Z when p is the anchor.

    Keeps p − q for the backward pass if there will be one.
    """
    dtype = torch.promote_types(logits_BTV.dtype, torch.float32)
    log_z_BT = torch.empty(logits_BTV.shape[:-1], dtype=dtype, device=logits_BTV.device)
    value_BT = torch.empty_like(log_z_BT)
    p_minus_q_BTV: Tensor | None = None
    if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
        # float16 would lose the small entries before a loss scaler could save them.
        kept = torch.float32 if logits_BTV.dtype == torch.float16 else logits_BTV.dtype
        p_minus_q_BTV = torch.empty(logits_BTV.shape, dtype=kept, device=logits_BTV.device)
    for block in _blocks(logits_BTV):
        logits = _from_zero_down(logits_BTV[block])
        log_w = None if log_w_BTV is None else log_w_BTV[block].to(dtype)
        tilted = logits if anchor_BTV is None else _from_zero_down(anchor_BTV[block])
        if log_w is not None:
            tilted = tilted + log_w
        p, q = torch.softmax(logits, dim=-1), torch.softmax(tilted, dim=-1)
        # The largest entry of a softmax is exp(max − logsumexp): no further pass of exponentials is needed.
        log_z = tilted.amax(dim=-1) - q.amax(dim=-1).log() + p.amax(dim=-1).log()
        if anchor_BTV is None and log_w is not None:
            log_ratio = log_w
        else:  # a token that q cannot produce counts nothing, though its logits may be −inf in both: 0 · (−inf − −inf)
            log_ratio = tilted.clamp(min=_LOWEST_LOGIT) - logits.clamp(min=_LOWEST_LOGIT)
        log_z_BT[block] = log_z
        # Rounding alone can make a KL of nearly zero negative.
        value_BT[block] = (torch.linalg.vecdot(q, log_ratio) - log_z).clamp_(min=0.0)
        if p_minus_q_BTV is not None:
            p_minus_q_BTV[block] = p.sub_(q)
    if p_minus_q_BTV is not None:
        ctx.save_for_backward(p_minus_q_BTV)
    ctx.logits_dtype = logits_BTV.dtype  # type: ignore[attr-defined]
    return log_z_BT, value_BT


def _logits_gradient(ctx: BackwardCFunction, grad_BT: Tensor) -> Tensor | None:
    if not ctx.needs_input_grad[0]:
        return None
    (p_minus_q_BTV,) = ctx.saved_tensors
    grad_BTV: Tensor = grad_BT.to(p_minus_q_BTV.dtype).unsqueeze(-1) * p_minus_q_BTV
    return grad_BTV.to(ctx.logits_dtype)  # type: ignore[attr-defined]


def _from_zero_down(logits: Tensor) -> Tensor:
    """The logits with their largest moved to 0, where float32 has digits to spare for the small log W added to them."""
    logits = at_least_float32(logits)
    return logits - logits.amax(dim=-1, keepdim=True)


def _blocks(logits_BTV: Tensor) -> Iterator[tuple[int | slice, ...]]:
    """Index every position once, a block of rows at a time, so that no slice has to be copied to be flattened."""
    *outer, rows, vocabulary = logits_BTV.shape
    elements = _BLOCK_ON_CPU if logits_BTV.device.type == "cpu" else _BLOCK_ELSEWHERE
    step = max(1, elements // max(1, vocabulary))
    for index in product(*(range(n) for n in outer)):
        for start in range(0, rows, step):
            yield (*index, slice(start, start + step))


def _require_same_shape(logits_BTV: Tensor, *others: Tensor) -> None:
    if logits_BTV.ndim < 2 or any(other.shape != logits_BTV.shape for other in others):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (logits_BTV, *others))
        raise ValueError(f"logits, log W and anchor must have one shape, of two axes or more; got {shapes}")
