"""Intervals for rates and for statistics of outputs that come in groups (several outputs of one prompt).

Axes: `G` groups (prompts, texts), `K` summed quantities, `S` bootstrap resamples.

Outputs of one prompt resemble each other, so the prompt, not the output, is what is drawn again. Three methods, each
where it holds:

- Wilson's score interval for a rate with one output a prompt; it stays honest at 0 and at 1.
- The percentile bootstrap over prompts for anything made of sums over prompts (Efron & Tibshirani 1993, chapter 13).
- The delete-one-prompt jackknife for statistics that count *different* things: drawing with replacement repeats
  prompts and so can only find fewer of them, which puts a bootstrap interval below the value it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

CONFIDENCE = 0.95
RESAMPLES = 2000
_CELLS = 2**22  # numbers drawn at a time: 32 MB

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and the ends of its 95 % interval."""

    value: float
    low: float | None  # None where one group alone says nothing of how groups differ
    high: float | None


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """A rate with Wilson's score interval: (rate, low, high).

    Raises:
        ValueError: n is 0, or successes is not in [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a rate needs 0 ≤ successes ≤ n and n ≥ 1; got {successes} of {n}")
    ends = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return successes / n, float(ends.low), float(ends.high)


def bootstrap(
    sums_GK: Floats,
    statistic: Callable[[Floats], Floats],
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Percentile bootstrap over groups of any statistic of sums.

    Args:
        sums_GK: what each group adds to each of K totals, for example (violations, outputs) for a rate.
        statistic: from totals of shape (S, K) to values of shape (S,), for example `lambda t: t[:, 0] / t[:, 1]`.
        seed: the same seed gives the same interval; two statistics of the same groups with the same seed are paired.

    Returns:
        the statistic of the groups as given, with its interval; no interval from a single group.

    Raises:
        ValueError: there is no group.
    """
    groups = len(sums_GK)
    if groups == 0:
        raise ValueError("a bootstrap needs at least one group; got none")
    value = float(statistic(sums_GK.sum(axis=0, keepdims=True))[0])
    if groups == 1:
        return Estimate(value, None, None)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled(sums_GK, statistic, seed, resamples), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def resampled(
    sums_GK: Floats, statistic: Callable[[Floats], Floats], seed: int = 0, resamples: int = RESAMPLES
) -> Floats:
    """The statistic of each of the resamples that `bootstrap` makes its interval of."""
    groups, width = sums_GK.shape
    generator = np.random.default_rng(seed)
    at_once = max(1, _CELLS // (groups * width))
    values = []
    for start in range(0, resamples, at_once):
        drawn_SG = generator.integers(0, groups, size=(min(at_once, resamples - start), groups))
        values.append(statistic(sums_GK[drawn_SG].sum(axis=1)))
    return np.concatenate(values)


def ratio_of_totals(totals_SK: Floats) -> Floats:
    """First total over second: a mean, a rate, a loss per token."""
    return totals_SK[:, 0] / totals_SK[:, 1]


def bootstrap_mean(values_by_group: Sequence[Sequence[float]], seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean of all values, with a percentile bootstrap over groups; empty groups are left out.

    Raises:
        ValueError: there is no value.
    """
    sums = [(sum(values), len(values)) for values in values_by_group if len(values)]
    return bootstrap(np.array(sums, dtype=np.float64).reshape(-1, 2), ratio_of_totals, seed, resamples)


def rate(events_by_prompt: Sequence[Sequence[bool]], seed: int = 0) -> tuple[Estimate, str]:
    """The share of outputs for which something is so, with the interval that fits, and that interval's name.

    One output a prompt: Wilson. Several: bootstrap over prompts, except where all outputs agree: then every resample
    agrees too and the bootstrap would claim certainty, so Wilson's interval on the number of *prompts* is given,
    which is the interval for outputs that are all copies of each other within a prompt, hence never too narrow.

    Raises:
        ValueError: there is no output.
    """
    groups = [events for events in events_by_prompt if len(events)]
    happened, outputs = sum(sum(events) for events in groups), sum(len(events) for events in groups)
    if outputs == 0:
        raise ValueError("a rate needs at least one output; got none")
    if outputs == len(groups):
        return Estimate(*wilson(happened, outputs)), "wilson"
    if happened in (0, outputs):
        return Estimate(*wilson(len(groups) if happened else 0, len(groups))), "wilson over prompts"
    return bootstrap_mean(groups, seed), "bootstrap over prompts"


def jackknife(value: float, left_out_G: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """A value with the normal interval of its delete-one jackknife standard error.

        se² = (G − 1)/G · Σ_g (θ_{−g} − mean)²

    Args:
        value: the statistic of all groups.
        left_out_G: the statistic without group g.
    """
    groups = len(left_out_G)
    if groups == 1:
        return Estimate(value, None, None)
    squares = float(np.square(left_out_G - left_out_G.mean()).sum())
    reach = float(ndtri((1 + confidence) / 2)) * float(np.sqrt((groups - 1) / groups * squares))
    return Estimate(value, value - reach, value + reach)
