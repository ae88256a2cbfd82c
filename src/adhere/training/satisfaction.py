"""How often fresh outputs satisfy a constraint: the measurement that logs show and that an adaptive λ follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adhere.oracles.base import violates
from adhere.records import LabelledSample


@dataclass(frozen=True, slots=True)
class Satisfaction:
    """A share of outputs with what it was measured on.

    `n` is the number of independent outputs it is worth, not always whole: see `measure`.
    """

    share: float
    n: float
    without_verdict: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval (Wilson 1927)."""
        return wilson(self.share, self.n)

    def numbers(self, name: str) -> dict[str, float]:
        """As a log has it."""
        low, high = self.interval
        return {
            f"no_verdict/{name}": float(self.without_verdict),
            f"satisfaction/{name}": self.share,
            f"satisfaction/{name}/low": low,
            f"satisfaction/{name}/high": high,
        }


def measure(name: str, samples: Sequence[LabelledSample], *, weighted: bool = True) -> Satisfaction | None:
    """The share of the judged samples that satisfy a constraint; None when none has a verdict.

    Several outputs of one prompt are not independent: `n` is then the number of prompts, the interval as wide as it can be.

    Args:
        name: the constraint's.
        samples: fresh outputs of the policy.
        weighted: samples drawn with another temperature, top-p or top-k count by their importance, so that the share is
            the policy's own, and `n` shrinks to the number of equally weighted ones they are worth (Kish 1965). False:
            the share of what was sampled.
    """
    judged = [(item.sample, score) for item in samples if (score := item.verdicts[name].score) is not None]
    if not judged:
        return None
    highest = max(sample.log_importance for sample, _ in judged)
    weights = [math.exp(sample.log_importance - highest) if weighted else 1.0 for sample, _ in judged]
    total = math.fsum(weights)
    share = math.fsum(w for w, (_, score) in zip(weights, judged, strict=True) if not violates(score)) / total
    repeated = any(sample.replicate for sample, _ in judged)
    independent = len({sample.prompt for sample, _ in judged}) / len(judged) if repeated else 1.0
    worth = total * total / math.fsum(w * w for w in weights)
    return Satisfaction(min(share, 1.0), max(1.0, worth * independent), len(samples) - len(judged))


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of `n` (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
