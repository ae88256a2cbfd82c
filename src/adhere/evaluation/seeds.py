"""One number of several seeds: their mean, within the span of their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adhere.records import Measurement


def over_seeds(measured: Sequence[Measurement]) -> Measurement:
    """The mean of one measure over seeds.

    The interval reaches from the lowest low to the highest high of the seeds' own: it holds what prompts leave open and
    how far seeds lie apart, without pretending that two or three seeds tell a spread. The tags `seeds` and `spread`
    (highest value minus lowest) stand beside it.

    Raises:
        ValueError: there is none, or they are of different measures.
    """
    if not measured:
        raise ValueError("a mean over seeds needs at least one measurement; got none")
    if len({each.name for each in measured}) > 1:
        raise ValueError(f"a mean over seeds needs one measure; got {', '.join(each.name for each in measured)}")
    values = [each.value for each in measured]
    lows = [each.low for each in measured if each.low is not None]
    highs = [each.high for each in measured if each.high is not None]
    seeds = ", ".join(each.tags["seed"] for each in measured if "seed" in each.tags)
    tags = {key: value for key, value in measured[0].tags.items() if key != "seed"}
    return replace(
        measured[0],
        value=sum(values) / len(values),
        low=min(lows) if len(lows) == len(measured) else None,
        high=max(highs) if len(highs) == len(measured) else None,
        n=sum(each.n for each in measured),
        tags={**tags, "seeds": seeds, "spread": f"{max(values) - min(values):.6g}"},
    )
