"""The target distribution q*: the model nearest to p whose outputs satisfy the constraint as often as asked.

Axes: `B` batch, `T` time, `V` vocabulary. Everything is computed in log space and in float32 or wider, whatever the
dtype of the model: in detoxification R is nearly 1 almost everywhere, where bfloat16 cannot tell 0.999 from 1.

With a hard oracle (C is 0 or 1) the outputs of q* satisfy it with probability max(δ, r) exactly. A soft score is read
as the probability that the output satisfies. The share of satisfied outputs is then δ as well; but a judge who scores
them afresh finds a mean between r and δ, because an output that was scored 0.7 is scored 0.7 again.

R and p belong together: R is the expectation under the very model whose logits are tilted (the anchor). With a stale R,
as in the parallel schedule, Z differs from W of the prefix, and q* is still a proper distribution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PROBABILITY_FLOOR = 1e-30
"""No R and no r counts as smaller than this, so that `log W` stays within ±69 and no `0 · inf` can arise."""

_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
_MINUS_LOG_2 = -math.log(2.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if that is what it is: the precision all of `functional` computes in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − exp(x)) for x ≤ 0, without cancellation at either end (Mächler 2012).

    Args:
        x: a log-probability, any shape. Values above −1.2e-38 (0 among them, where the result would be −inf) are taken
            as −1.2e-38, so the result is never below −87.4 and its gradient is finite; at 0 the gradient is 0.

    Returns:
        the log of the complementary probability, same shape, float32 or wider.

    Example:
        >>> log1mexp(torch.tensor([0.25, 0.5]).log()).exp()
        tensor([0.7500, 0.5000])
        >>> bool(log1mexp(torch.tensor(0.0)).isfinite())
        True
    """
    x = at_least_float32(x).clamp(max=-_SMALLEST_NORMAL)
    near_zero = x > _MINUS_LOG_2
    near = torch.log(-torch.expm1(x))
    # Where `near` is chosen this branch sees a harmless number: `where` would pass on its 0 · inf as a NaN gradient.
    far = torch.log1p(-torch.exp(torch.where(near_zero, _MINUS_LOG_2, x)))
    return torch.where(near_zero, near, far)


def log_tilt(log_r_BTV: Tensor, satisfaction_B: Tensor, target: float) -> Tensor:
    """Log-weight that turns the model's next-token distribution into that of q*.

        W = β + (α − β)·R,   α = δ / r,   β = (1 − δ) / (1 − r)          (method.md §2)

    Where a prompt already satisfies the target (r ≥ δ) the constraint is inactive and W = 1. The hard constraint
    δ = 1 is W = R / r for every r, also where r has rounded to 1: its tokens may still differ in R.

    Args:
        log_r_BTV: log R, any shape that starts with the batch (`BTV` for every next token, `BT` for prefixes, `BV` for
            one position). R and r below `PROBABILITY_FLOOR` count as `PROBABILITY_FLOOR`; values above 0 as 0.
        satisfaction_B: r = R at the empty prefix, a probability per prompt.
        target: δ, the satisfaction asked for, in (0, 1].

    Returns:
        log W, shape of `log_r_BTV`, float32 or wider; finite for every R and r in [0, 1].

    Raises:
        ValueError: target outside (0, 1], or `satisfaction_B` is not one number for each row of `log_r_BTV`.

    Example:
        >>> log_tilt(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([0.5]), target=1.0).exp()
        tensor([[0.4000, 1.6000]])
        >>> log_tilt(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([0.5]), target=0.4).exp()
        tensor([[1., 1.]])
    """
    if not 0.0 < target <= 1.0:
        raise ValueError(f"target must be in (0, 1], got {target}; it is the probability of satisfaction asked for")
    if satisfaction_B.ndim != 1 or log_r_BTV.ndim < 1 or satisfaction_B.shape[0] != log_r_BTV.shape[0]:
        raise ValueError(
            "satisfaction_B must hold one probability for each row of log_r: "
            f"got shape {tuple(satisfaction_B.shape)} for log_r of shape {tuple(log_r_BTV.shape)}"
        )
    log_r = at_least_float32(log_r_BTV).clamp(math.log(PROBABILITY_FLOOR), 0.0)
    r = satisfaction_B.to(log_r.dtype).clamp(PROBABILITY_FLOOR, 1.0).view(-1, *[1] * (log_r.ndim - 1))
    if target == 1.0:
        return log_r - r.log()
    # β > 0 and α ≥ β: a sum of positive numbers, so nothing cancels and the log is safe without a logaddexp.
    low, slope = tilt_line(r, target)
    return torch.log(low + slope * log_r.exp())


def tilt_line(satisfaction_B: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """β and α − β of W = β + (α − β)·R, as in `log_tilt`: 0 and 1 / r for the hard constraint, 1 and 0 where it is inactive.

    Args:
        satisfaction_B: r, any shape; below `PROBABILITY_FLOOR` it counts as that.
        target: δ in (0, 1].

    Example:
        >>> tilt_line(torch.tensor([0.5]), target=0.8)
        (tensor([0.4000]), tensor([1.2000]))
    """
    r = at_least_float32(satisfaction_B).clamp(PROBABILITY_FLOOR, 1.0)
    if target == 1.0:
        return torch.zeros_like(r), 1.0 / r
    active = r < target
    # r < δ < 1 leaves 1 − r away from 0; elsewhere the quotients are not used, so r is replaced by something harmless.
    r = torch.where(active, r, 0.5 * target)
    alpha = torch.where(active, target / r, 1.0)
    beta = torch.where(active, (1.0 - target) / (1.0 - r), 1.0)
    return beta, alpha - beta


def log_q_star(logits_BTV: Tensor, log_w_BTV: Tensor) -> Tensor:
    """log q*(v | prefix): the model's next-token distribution, tilted and normalised again.

        log q* = logits + log W − logsumexp_v(logits + log W)              (method.md §2)

    Args:
        logits_BTV: the model's logits (or log-probabilities), any shape that ends with the vocabulary.
        log_w_BTV: log W of the same shape, from `log_tilt`.

    Returns:
        log q*, same shape, float32 or wider.

    Example:
        >>> p, w = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.4, 1.6]])
        >>> log_q_star(p.log(), w.log()).exp()
        tensor([[0.2000, 0.8000]])
    """
    return torch.log_softmax(at_least_float32(logits_BTV) + log_w_BTV, dim=-1)
