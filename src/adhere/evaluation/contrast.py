"""One model against another in one measure: difference, ratio, and how surely they differ.

On the same prompts (or texts) the two are drawn again together: a hard prompt is hard for both, and what they share
cancels. Where they were not measured on the same, or all groups of one say the same, the interval is put together from
the two models' own intervals (MOVER, Zou and Donner 2008), which needs no pairs:

    from  a − b − √((a − a_low)² + (b_high − b)²)  to  a − b + √((a_high − a)² + (b − b_low)²),   ratios on the log scale
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binomtest

from adhere.evaluation.intervals import RESAMPLES, Estimate, Floats, bootstrap, jackknife, resampled
from adhere.evaluation.parts import RATES, DistinctParts, Parts
from adhere.records import Measurement

UNPAIRED = "from both intervals"
MCNEMAR = "McNemar, exact"
BOOTSTRAP = "paired bootstrap"
_NOT_OF_BOTH = {"interval", "prompts", "no_verdict", "prompts_left_out", "ngrams", "dtype"}  # tags that stay behind


def contrast(
    above: Measurement,
    below: Measurement,
    parts: tuple[Parts, Parts] | tuple[DistinctParts, DistinctParts] | None,
    seed: int = 0,
) -> tuple[Measurement, ...]:
    """`<name>_difference` (above − below) and, where the one below is above 0, `<name>_ratio` (above / below).

    Args:
        above, below: the same measure of two models.
        parts: of both, groups in the same order; None where they were not measured on the same, or are not kept.

    Returns:
        The tag `interval` says how the interval was made. The difference of a violation rate also has the tags `p` and
        `test` where there are pairs: McNemar's exact test with one output a prompt, else twice the smaller tail of the
        paired bootstrap.

    Raises:
        ValueError: the two have different numbers of groups.
    """
    kinds = ("difference", "ratio") if below.value > 0 else ("difference",)
    made = {kind: _own(above, below, kind) for kind in kinds}
    how = dict.fromkeys(kinds, UNPAIRED)
    test: dict[str, str] = {}
    if parts is not None:
        one, other = parts
        _check_pairs(one, other)
        for kind in kinds:
            if (estimate := _paired(one, other, kind, seed)) is not None:
                made[kind], how[kind] = estimate
        if above.name in RATES and isinstance(one, Parts) and isinstance(other, Parts):
            test = _test(one, other, seed)
    tags = {key: value for key, value in above.tags.items() if key not in _NOT_OF_BOTH}
    return tuple(
        Measurement(
            f"{above.name}_{kind}",
            *made[kind],
            n=above.n,
            unit=above.unit if kind == "difference" else "",
            tags=tags | {"interval": how[kind]} | (test if kind == "difference" else {}),
        )
        for kind in kinds
    )


def mcnemar(above: Parts, below: Parts) -> float:
    """Two-sided p of McNemar's exact test; prompts without a verdict on either side are left out.

    Under the null hypothesis, of the prompts on which just one of the two violates, half are of each.
    """
    both_G = (above.sums_G2[:, 1] > 0) & (below.sums_G2[:, 1] > 0)
    first_G, second_G = above.sums_G2[both_G, 0] > 0, below.sums_G2[both_G, 0] > 0
    only_first, only_second = int((first_G & ~second_G).sum()), int((second_G & ~first_G).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def difference_of_intervals(above: Estimate, below: Estimate) -> Estimate:
    """MOVER: the interval of a difference from two intervals; none where one of the two has none."""
    value = above.value - below.value
    if above.low is None or above.high is None or below.low is None or below.high is None:
        return Estimate(value, None, None)
    low = value - math.hypot(above.value - above.low, below.high - below.value)
    high = value + math.hypot(above.high - above.value, below.value - below.low)
    return Estimate(value, low, high)


def ratio_of_intervals(above: Estimate, below: Estimate) -> Estimate:
    """MOVER on the log scale; none where the one below may be 0. Of a rate of 0, the upper end is the widest ratio."""
    value = above.value / below.value
    if above.low is None or above.high is None or below.high is None or not below.low or min(above.low, below.low) < 0:
        return Estimate(value, None, None)
    if above.value == 0:
        return Estimate(0.0, 0.0, above.high / below.low)
    one, other = (Estimate(*(math.log(end) if end else -math.inf for end in each)) for each in (above, below))
    _, low, high = difference_of_intervals(one, other)
    assert low is not None and high is not None
    return Estimate(value, math.exp(low), math.exp(high))


def _paired(
    one: Parts | DistinctParts, other: Parts | DistinctParts, kind: str, seed: int
) -> tuple[Estimate, str] | None:
    """The paired estimate and its method; None where groups that all agree, or too few events, give it nothing."""
    if isinstance(one, DistinctParts):
        assert isinstance(other, DistinctParts)
        if kind == "difference":
            estimate = jackknife(one.value - other.value, one.left_out_G - other.left_out_G)
        else:
            estimate = jackknife(one.value / other.value, one.left_out_G / np.maximum(other.left_out_G, 1e-12))
        return estimate, "paired jackknife over prompts"
    assert isinstance(other, Parts)
    if one.agrees or other.agrees:
        return None

    def statistic(totals_S4: Floats) -> Floats:
        above_S, below_S = one.value(totals_S4[:, :2]), other.value(totals_S4[:, 2:])
        return above_S - below_S if kind == "difference" else above_S / below_S

    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = bootstrap(_together(one, other), statistic, seed)
    if any(end is None or not math.isfinite(end) for end in estimate):
        return None
    return estimate, f"paired bootstrap over {one.groups}"


def _test(one: Parts, other: Parts, seed: int) -> dict[str, str]:
    if one.one_each and other.one_each:
        return {"p": f"{mcnemar(one, other):.3g}", "test": MCNEMAR}
    with np.errstate(divide="ignore", invalid="ignore"):
        sums_G4 = _together(one, other)
        differences_S = resampled(sums_G4, lambda t: one.value(t[:, :2]) - other.value(t[:, 2:]), seed)
    smaller = min(int((differences_S <= 0).sum()), int((differences_S >= 0).sum()))
    return {"p": f"{min(1.0, 2 * (smaller + 1) / (RESAMPLES + 1)):.3g}", "test": BOOTSTRAP}


def _together(one: Parts, other: Parts) -> Floats:
    """The sums of both, groups that count for neither left out."""
    sums_G4 = np.concatenate([one.sums_G2, other.sums_G2], axis=1)
    return sums_G4[(sums_G4[:, [1, 3]] > 0).any(axis=1)]


def _own(above: Measurement, below: Measurement, kind: str) -> Estimate:
    one, other = (Estimate(m.value, m.low, m.high) for m in (above, below))
    return difference_of_intervals(one, other) if kind == "difference" else ratio_of_intervals(one, other)


def _check_pairs(one: Parts | DistinctParts, other: Parts | DistinctParts) -> None:
    sizes = [len(each.left_out_G if isinstance(each, DistinctParts) else each.sums_G2) for each in (one, other)]
    if sizes[0] != sizes[1] or type(one) is not type(other):
        raise ValueError(f"a paired contrast needs the same groups in both models; got {sizes[0]} and {sizes[1]}")
