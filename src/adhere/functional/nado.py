"""The losses and targets of NADO, the auxiliary model that predicts R(prefix) = E[C | prefix].

R is represented by its logit everywhere: log R = logsigmoid(logit), log(1 − R) = logsigmoid(−logit). Both are exact in
float32 also where R itself rounds to 1, and there is never a reason to hand a probability, or its log, to these losses.

Axes: `B` batch, `T` time over *prefixes* (index i is the prefix of the first i output tokens, so index 0 is the empty
prefix and a sequence of n tokens has n + 1 of them), `N` any positions taken together, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from adhere.functional.target import at_least_float32


def oracle_likelihood(logit_r_BT: Tensor, target_BT: Tensor, mask_BT: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Cross-entropy of R at every prefix against the oracle's verdict, mean over the masked prefixes (method.md §3).

    Args:
        logit_r_BT: the logit of R at each prefix; never its sigmoid or logsigmoid.
        target_BT: what R is drawn to, in [0, 1]; soft verdicts are welcome (see `td_targets`).
        mask_BT: True where a prefix counts. What stands elsewhere, NaN included, changes neither value nor gradient.
        weight_B: how much each sequence counts, on any scale: the importance weight p(y | x) / s(y | x) of samples that
            come from a truncated or tempered s, since R is an expectation under p. None weighs all alike.

    Returns:
        the (weighted) mean, a scalar, float32 or wider; 0 when nothing counts.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> logit = torch.tensor([[0.0, 4.0]])
        >>> oracle_likelihood(logit, torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]]))
        tensor(0.6931)
    """
    _require_same_shape(logit_r_BT=logit_r_BT, target_BT=target_BT, mask_BT=mask_BT)
    mask = mask_BT.bool()
    logit = at_least_float32(logit_r_BT).masked_fill(~mask, 0.0)
    target = target_BT.to(logit.dtype).masked_fill(~mask, 0.0)
    loss = binary_cross_entropy_with_logits(logit, target, reduction="none")
    if weight_B is None:
        return _masked_mean(loss, mask)
    _require_same_shape(weight_B=weight_B, rows_of_logit=logit[:, 0])
    weight = weight_B.to(loss.dtype).unsqueeze(1) * mask
    return (weight * loss).sum() / weight.sum().clamp(min=torch.finfo(loss.dtype).tiny)


def forward_consistency(
    log_p_NV: Tensor, logit_r_next_NV: Tensor, logit_r_N: Tensor, mask_N: Tensor | None = None
) -> Tensor:
    """How far R at a prefix is from the average of R over its next tokens (method.md §2, §3).

        Bernoulli KL( stopgrad Σ_v p(v | prefix)·R(prefix·v)  ‖  R(prefix) ),   mean over positions

    The sum is the target: it is taken in log space, for R and for 1 − R separately so that neither loses its digits
    near 1, and no gradient flows through it.

    Args:
        log_p_NV: log-probabilities of the policy (normalised) for every next token.
        logit_r_next_NV: logit of R after each of these tokens.
        logit_r_N: logit of R at the prefix itself.
        mask_N: True where a position counts; None counts all.

    Returns:
        a scalar, float32 or wider; 0 when nothing counts.

    Raises:
        ValueError: the shapes do not fit together.

    Example:
        >>> log_p, logit_next = torch.tensor([[0.5, 0.5]]).log(), torch.logit(torch.tensor([[0.2, 0.6]]))
        >>> round(forward_consistency(log_p, logit_next, torch.logit(torch.tensor([0.4]))).abs().item(), 6)
        0.0
    """
    _require_same_shape(log_p_NV=log_p_NV, logit_r_next_NV=logit_r_next_NV)
    _require_same_shape(logit_r_N=logit_r_N, positions_of_log_p=log_p_NV[..., 0])
    mask = torch.ones_like(logit_r_N, dtype=torch.bool) if mask_N is None else mask_N.bool()
    _require_same_shape(logit_r_N=logit_r_N, mask_N=mask)
    with torch.no_grad():
        log_p = at_least_float32(log_p_NV)
        logit_next = at_least_float32(logit_r_next_NV)
        log_satisfied = torch.logsumexp(log_p + logsigmoid(logit_next), dim=-1).masked_fill(~mask, 0.0)
        log_violated = torch.logsumexp(log_p + logsigmoid(-logit_next), dim=-1).masked_fill(~mask, 0.0)
    logit = at_least_float32(logit_r_N).masked_fill(~mask, 0.0)
    divergence = log_satisfied.exp() * (log_satisfied - logsigmoid(logit)) + log_violated.exp() * (
        log_violated - logsigmoid(-logit)
    )
    return _masked_mean(divergence, mask)


@torch.no_grad()
def td_targets(
    final_score_B: Tensor, value_BT: Tensor, violated_from_B: Tensor, mask_BT: Tensor, td_lambda: float
) -> Tensor:
    """What R is drawn to at every prefix of sampled sequences whose outcome is known (method.md §3, prefix labels).

        complete sequence             target = final score
        already violated (settled)    target = final score
        still clean                   target_i = (1 − λ)·value_{i+1} + λ·target_{i+1}

    λ = 1 is the plain Monte-Carlo label, the final score at every prefix; a smaller λ lets a clean prefix learn from
    what the model already believes of its continuation rather than from the luck of one of them.

    Args:
        final_score_B: the oracle's score of each complete output, in [0, 1].
        value_BT: R (a probability) at every prefix as the model now believes, `T` = longest output + 1. Detached here.
        violated_from_B: index of the first prefix from which on the outcome is settled, from `violated_from`; anything
            beyond the last prefix when never.
        mask_BT: True on the n + 1 prefixes of a sequence of n tokens, which stand first; False on padding.
        td_lambda: λ, in [0, 1].

    Returns:
        targets of shape BT, 0 on padding, float32 or wider, without gradient.

    Raises:
        ValueError: td_lambda outside [0, 1], or the shapes do not fit together.

    Example:
        >>> value, mask = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.ones(1, 4, dtype=torch.bool)
        >>> td_targets(torch.tensor([0.0]), value, torch.tensor([2]), mask, td_lambda=0.5)
        tensor([[0.5750, 0.3500, 0.0000, 0.0000]])
    """
    if not 0.0 <= td_lambda <= 1.0:
        raise ValueError(f"td_lambda must be in [0, 1], got {td_lambda}")
    _require_same_shape(value_BT=value_BT, mask_BT=mask_BT)
    _require_same_shape(final_score_B=final_score_B, violated_from_B=violated_from_B, rows_of_value=value_BT[:, 0])
    mask = mask_BT.bool()
    value = at_least_float32(value_BT)
    final_B = final_score_B.to(value.dtype)
    target = torch.zeros_like(value)
    following_B = final_B
    last = value.shape[1] - 1
    for i in range(last, -1, -1):
        if i == last:
            settled_B = torch.ones_like(mask[:, i])
            mixed_B = final_B
        else:
            settled_B = ~mask[:, i + 1] | (violated_from_B <= i)
            mixed_B = (1.0 - td_lambda) * value[:, i + 1] + td_lambda * following_B
        following_B = torch.where(settled_B, final_B, mixed_B)
        target[:, i] = following_B
    return target.masked_fill(~mask, 0.0)


def violated_from(prefix_scores: Sequence[float], threshold: float = 0.5) -> int:
    """The first prefix from which on every longer one, the complete output included, violates.

    Only the settled suffix counts. Prefixes end at tokens, not at words: "…you ass" violates, but its next token may
    make it "…you assist me", which does not. A violation that later text takes back was never one; where the complete
    output is clean, no prefix of it is settled.

    Args:
        prefix_scores: the oracle's score of the first 0, 1, …, n output tokens, the last being the complete output.
        threshold: a score below this violates (the same number as everywhere, `oracles.base.SATISFIED`).

    Returns:
        an index into `prefix_scores`, or its length when nothing is settled.

    Example:
        >>> violated_from([1.0, 0.0, 1.0, 0.0, 0.0])  # "", "you ass", "you assist", "… shit", "… shit."
        3
        >>> violated_from([1.0, 0.0, 1.0])
        3
    """
    first = len(prefix_scores)
    while first > 0 and prefix_scores[first - 1] < threshold:
        first -= 1
    return first


def _masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    return value.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def _require_same_shape(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes must be the same, got {shapes}")
