"""How many times as often, or as surprised: ratios of two models measured on the same prompts or texts.

Both models are resampled together (a paired bootstrap): a hard prompt is hard for both, and what they share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adhere.evaluation.intervals import Estimate, Floats, bootstrap, wilson
from adhere.evaluation.satisfaction import Scores
from adhere.oracles.base import violates
from adhere.records import Measurement

if TYPE_CHECKING:
    from adhere.evaluation.perplexity import TokenLosses


def rate_ratio(above: Scores, below: Scores, name: str = "violation_rate_ratio", seed: int = 0) -> Measurement | None:
    """The violation rate of one model over that of another, prompts in the same order in both.

    Where the bootstrap has nothing to work with (no violation above, or so few below that some resamples have none),
    the interval is the widest ratio of the two Wilson intervals over prompts: wider than 95 % needs, never certain by
    accident.

    Returns:
        the ratio, or None when the model below never violates, so that there is none. `n` is the number of prompts.

    Raises:
        ValueError: the two have different numbers of prompts, or one has no verdict at all.
    """
    if len(above) != len(below):
        raise ValueError(f"a paired ratio needs the same prompts in both; got {len(above)} and {len(below)} prompts")
    sums_GK = np.array(
        [[*_counts(one), *_counts(other)] for one, other in zip(above, below, strict=True)], dtype=np.float64
    )
    totals_K = sums_GK.sum(axis=0) if len(sums_GK) else np.zeros(4)
    if not totals_K[1] or not totals_K[3]:
        raise ValueError("a ratio of violation rates needs at least one verdict on each side")
    if totals_K[2] == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = bootstrap(sums_GK, _rate_over_rate, seed)
    method = "paired bootstrap over prompts"
    if totals_K[0] == 0 or any(end is None or not math.isfinite(end) for end in estimate):
        (_, low_a, high_a), (_, low_b, high_b) = (_wilson_over_prompts(sums_GK[:, ends]) for ends in ([0, 1], [2, 3]))
        estimate, method = Estimate(estimate.value, low_a / high_b, high_a / low_b), "ratio of wilson ends"
    return Measurement(name, *estimate, n=len(sums_GK), tags={"interval": method})


def perplexity_ratio(
    above: TokenLosses, below: TokenLosses, name: str = "perplexity_ratio", seed: int = 0
) -> Measurement:
    """The perplexity of one model over that of another, on the same sequences with the same tokens.

    Raises:
        ValueError: the two were not measured on the same sequences.
    """
    if not np.array_equal(above.tokens_N, below.tokens_N):
        raise ValueError("a paired ratio needs the same sequences, cut into the same tokens, in both")
    sums_GK = np.stack([above.nats_N - below.nats_N, above.tokens_N], axis=1).astype(np.float64)
    estimate = bootstrap(sums_GK[above.tokens_N > 0], lambda totals_SK: np.exp(totals_SK[:, 0] / totals_SK[:, 1]), seed)
    n = int((above.tokens_N > 0).sum())
    return Measurement(name, *estimate, n=n, tags={"interval": "paired bootstrap over texts"})


def _counts(scores: Sequence[float | None]) -> tuple[int, int]:
    judged = [score for score in scores if score is not None]
    return sum(map(violates, judged)), len(judged)


def _rate_over_rate(totals_SK: Floats) -> Floats:
    return (totals_SK[:, 0] / totals_SK[:, 1]) / (totals_SK[:, 2] / totals_SK[:, 3])


def _wilson_over_prompts(sums_G2: Floats) -> tuple[float, float, float]:
    """Wilson's interval as if the outputs of a prompt were copies of each other: rate as measured, n = prompts."""
    prompts = int((sums_G2[:, 1] > 0).sum())
    violating, judged = sums_G2.sum(axis=0)
    return wilson(max(int(violating > 0), round(prompts * violating / judged)), prompts)
