"""A few tokens that stand for the whole vocabulary in an average over the policy's next token.

N positions · V vocabulary · K tokens that stand for it
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKENS = 128
"""K: three quarters of them are the likeliest tokens, one quarter is drawn from the rest."""


def likely_tokens(log_p_NV: Tensor, generator: torch.Generator, count: int = TOKENS) -> tuple[Tensor, Tensor]:
    """K tokens and their weights, so that Σ_k w_k f(v_k) stands for Σ_v p(v) f(v).

    The likeliest tokens come with their own probability. The others are drawn from the rest of the distribution at evenly
    spaced quantiles with one random shift, and share what probability the rest has: the expectation over the draw is the
    sum over the vocabulary, for every f. Forward consistency is linear in that sum, so its gradient stays right in the mean
    for a hundredth of the work and memory.

    Args:
        log_p_NV: log-probabilities, normalised.
        generator: draws one number a position, on the CPU.
        count: K; a vocabulary that is not larger stands for itself.

    Returns:
        token ids [N, K] and the log of their weights [N, K], float32; the weights of a position sum to 1.
    """
    positions, vocabulary = log_p_NV.shape
    if vocabulary <= count:
        return torch.arange(vocabulary, device=log_p_NV.device).expand(positions, vocabulary), log_p_NV
    drawn = count // 4
    top_log_p_NK, top_NK = log_p_NV.topk(count - drawn, dim=-1)
    rest_NV = log_p_NV.exp().scatter_(1, top_NK, 0.0)
    cumulative_NV = rest_NV.cumsum(-1)
    rest_N1 = cumulative_NV[:, -1:]
    shift_N1 = torch.rand(positions, 1, generator=generator).to(log_p_NV.device)
    quantile_NK = (torch.arange(drawn, device=log_p_NV.device) + shift_N1) / drawn
    drawn_NK = torch.searchsorted(cumulative_NV, quantile_NK * rest_N1, right=True).clamp_max(vocabulary - 1)
    drawn_log_w_NK = (rest_N1 / drawn).log().expand(positions, drawn)
    return torch.cat([top_NK, drawn_NK], 1), torch.cat([top_log_p_NK, drawn_log_w_NK], 1)
