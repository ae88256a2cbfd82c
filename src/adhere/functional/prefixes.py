"""Weights that turn prefixes sampled from the policy into prefixes of q*.

The regulariser is a sum over positions with prefixes drawn from q* (method.md §2), while the samples come from p. They
are weighted, never thrown away: the prefixes just before a violation are the ones that teach.

Axes: `B` batch, `T` time (index i is the position that predicts token i, its prefix has i tokens), `N` samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adhere.functional.target import at_least_float32


@torch.no_grad()
def prefix_weights(
    log_w_prefix_BT: Tensor,
    mask_BT: Tensor,
    clip: float,
    log_importance_B: Tensor | None = None,
    log_mean: Tensor | float | None = None,
) -> Tensor:
    """W(x, y_<i) / W(x) for every position: self-normalised, then clipped, without gradient (method.md §2).

    **Normalisation**: the weights are divided by their mean over all masked positions of the batch. So the mean over
    masked positions of weight · KL estimates the KL per token of q*, and an error in R that scales all weights alike
    (W(x) itself, for one) cancels. The clip comes after, so no position ever counts more than `clip` times, and the
    mean is at most 1.

    Args:
        log_w_prefix_BT: log W of the prefix *before* each position, from `log_tilt` at those prefixes. W(x), its value
            at the empty prefix, is 1 wherever satisfaction_B is R at that prefix, so nothing needs to be subtracted.
        mask_BT: True on output positions, the first output token included.
        clip: the largest weight, at least 1.
        log_importance_B: log p(y | x) − log s(y | x) of whole samples that come from another distribution s
            (temperature, top-p, top-k); None when they were sampled from p itself. It corrects s within what s can
            produce; what a truncated sampler never produces, no weight brings back.
        log_mean: log of the mean to divide by, from `log_mean_weight` over more than this batch (all micro-batches of a
            step, or all samples of an iteration), so that the weights do not depend on how a batch is cut.

    Returns:
        weights of shape BT, float32 or wider, 0 where the mask is False.

    Raises:
        ValueError: clip below 1, or the shapes do not fit together.

    Example:
        >>> log_w, mask = torch.tensor([[0.0, 0.0], [0.0, 2.0]]).log1p(), torch.ones(2, 2, dtype=torch.bool)
        >>> prefix_weights(log_w, mask, clip=10.0)
        tensor([[0.6667, 0.6667],
                [0.6667, 2.0000]])
        >>> prefix_weights(log_w, mask, clip=1.5).max()
        tensor(1.5000)
    """
    if not clip >= 1.0:
        raise ValueError(f"clip must be at least 1 (the mean weight), got {clip}")
    log_weight = _log_weights(log_w_prefix_BT, mask_BT, log_importance_B)
    if log_mean is None:
        log_mean = _log_mean(log_weight, mask_BT)
    return (log_weight - log_mean).exp().clamp(max=clip)


@torch.no_grad()
def log_mean_weight(log_w_prefix_BT: Tensor, mask_BT: Tensor, log_importance_B: Tensor | None = None) -> Tensor:
    """Log of the mean unnormalised weight over the masked positions: what `prefix_weights` divides by.

    Returns:
        a scalar, float32 or wider; 0 when nothing is masked in.

    Example:
        >>> log_w, mask = torch.tensor([[1.0, 3.0]]).log(), torch.ones(1, 2, dtype=torch.bool)
        >>> log_mean_weight(log_w, mask).exp()
        tensor(2.)
    """
    return _log_mean(_log_weights(log_w_prefix_BT, mask_BT, log_importance_B), mask_BT)


@torch.no_grad()
def effective_sample_size(log_weights_N: Tensor) -> Tensor:
    """How many equally weighted samples these weighted ones are worth: (Σ w)² / Σ w² (Kish 1965).

    Args:
        log_weights_N: log-weights up to a constant, any shape; −inf is a weight of 0.

    Returns:
        a scalar between 1 and the number of weights, float32 or wider; 0 when there is no weight at all.

    Example:
        >>> effective_sample_size(torch.zeros(8))
        tensor(8.)
        >>> effective_sample_size(torch.tensor([0.0, 0.0, float("-inf")]))
        tensor(2.)
    """
    log_weight = at_least_float32(log_weights_N).flatten()
    if log_weight.numel() == 0 or bool((log_weight == -torch.inf).all()):
        return log_weight.new_zeros(())
    weight = (log_weight - log_weight.max()).exp()
    return weight.sum().square() / weight.square().sum()


def _log_weights(log_w_prefix_BT: Tensor, mask_BT: Tensor, log_importance_B: Tensor | None) -> Tensor:
    if log_w_prefix_BT.ndim != 2 or log_w_prefix_BT.shape != mask_BT.shape:
        raise ValueError(
            "log_w_prefix_BT and mask_BT must have the same two axes, "
            f"got {tuple(log_w_prefix_BT.shape)} and {tuple(mask_BT.shape)}"
        )
    log_weight = at_least_float32(log_w_prefix_BT)
    if log_importance_B is not None:
        if log_importance_B.shape != log_weight.shape[:1]:
            raise ValueError(
                f"log_importance_B must hold one number for each of the {log_weight.shape[0]} samples, "
                f"got shape {tuple(log_importance_B.shape)}"
            )
        log_weight = log_weight + log_importance_B.to(log_weight.dtype).unsqueeze(1)
    return log_weight.masked_fill(~mask_BT.bool(), -torch.inf)


def _log_mean(log_weight: Tensor, mask_BT: Tensor) -> Tensor:
    count = mask_BT.sum()
    log_sum = torch.logsumexp(log_weight.flatten(), dim=0)
    return torch.where(count > 0, log_sum - count.clamp(min=1).to(log_sum.dtype).log(), 0.0)
