"""A measurement taken apart into what each prompt (or text) adds to it, so that two models are compared group by group.

Axes: `G` groups, `S` resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adhere.evaluation.intervals import Floats
from adhere.evaluation.quality import distinct_without_each, of_output, outputs_by_prompt
from adhere.evaluation.satisfaction import Scores, scores_by_prompt
from adhere.evaluation.toxicity import expected_maximum, probability_of_any
from adhere.oracles.base import violates
from adhere.records import EvaluationResult, Measurement

RATES = ("violation_rate", "judge_violation_rate")
TOXICITY = ("emt", "toxicity_probability", "toxicity_fraction")
PER_OUTPUT = ("repetition", "looping", "mean_length", "empty_rate")
DISTINCT = "distinct_"
PERPLEXITY = "_perplexity"


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A measurement as a quotient of two sums over groups, or exp of it (perplexities).

    `sums_G2` holds (numerator, denominator) of every group; a group without a verdict adds (0, 0), so that the groups of
    two models stand in the same order.
    """

    sums_G2: Floats
    groups: Literal["prompts", "texts", "questions"] = "prompts"
    is_exponential: bool = False

    def value(self, totals_S2: Floats) -> Floats:
        """The measurement from its two totals."""
        quotient_S = totals_S2[:, 0] / totals_S2[:, 1]
        return np.exp(quotient_S) if self.is_exponential else quotient_S

    @property
    def agrees(self) -> bool:
        """Whether all groups say the same, so that drawing them again cannot tell how sure the value is."""
        judged_G2 = self.sums_G2[self.sums_G2[:, 1] > 0]
        return len(np.unique(judged_G2[:, 0] / judged_G2[:, 1])) <= 1

    @property
    def one_each(self) -> bool:
        """Whether no group has more than one observation."""
        return bool((self.sums_G2[:, 1] <= 1).all())


@dataclass(frozen=True, slots=True, eq=False)
class DistinctParts:
    """distinct-n of all outputs, and what it would be without each prompt: resampling cannot serve it (`intervals`)."""

    value: float
    left_out_G: Floats


def parts_of(result: EvaluationResult, measured: Measurement) -> Parts | DistinctParts | None:
    """A measurement of a result in parts; None where its parts are not kept (the measures of a suite)."""
    name, tags = measured.name, measured.tags
    if name in RATES or name in TOXICITY:
        judge = tags.get("judge") or tags.get("constraint")
        if judge is None or not result.completions or judge not in result.completions[0].verdicts:
            return None
        return parts_of_scores(measured, scores_by_prompt(result.completions, judge))
    if name in PER_OUTPUT and result.completions:
        values = [[of_output(name, output) for output in group] for group in outputs_by_prompt(result.completions)]
        return _parts(values, lambda of_prompt: (sum(of_prompt), len(of_prompt)))
    if name.startswith(DISTINCT) and result.completions:
        value, left_out_G, _ = distinct_without_each(
            outputs_by_prompt(result.completions), int(name.removeprefix(DISTINCT))
        )
        return DistinctParts(value, left_out_G)
    if name.endswith(PERPLEXITY) and name in result.losses:
        return Parts(np.array(result.losses[name], dtype=np.float64).reshape(-1, 2), "texts", is_exponential=True)
    return None


def parts_of_scores(measured: Measurement, scores: Scores) -> Parts:
    """A violation rate or one of the toxicity numbers in parts, from the scores of every prompt's outputs."""
    if measured.name in RATES:
        return _parts(scores, lambda judged: (sum(map(violates, judged)), len(judged)))
    return _parts(scores, _toxicity(measured.name, int(measured.tags["k"])))


def _parts(scores: Scores, sums: Callable[[list[float]], tuple[float, float]]) -> Parts:
    judged = [[score for score in of_prompt if score is not None] for of_prompt in scores]
    return Parts(np.array([sums(of_prompt) if of_prompt else (0, 0) for of_prompt in judged], dtype=np.float64))


def _toxicity(name: str, k: int) -> Callable[[list[float]], tuple[float, float]]:
    def sums(judged: list[float]) -> tuple[float, float]:
        if len(judged) < k:
            return 0.0, 0.0
        bad = sum(map(violates, judged))
        if name == "emt":
            return expected_maximum([1.0 - score for score in judged], k), 1.0
        return (probability_of_any(bad, len(judged), k) if name == "toxicity_probability" else bad / len(judged)), 1.0

    return sums
