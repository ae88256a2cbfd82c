"""One model over another, measured on the same prompts and texts: the rows `<name>_ratio` of a summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adhere.evaluation.compare import perplexity_ratio, rate_ratio
from adhere.evaluation.evaluate import losses_of
from adhere.evaluation.satisfaction import scores_by_prompt
from adhere.records import EvaluationResult, Measurement

_PLAIN_QUOTIENTS = ("distinct_2",)


def compared(above: EvaluationResult, below: EvaluationResult) -> list[dict[str, Any]]:
    """Ratios of two evaluations as rows of a results file, tagged `model` (above) and `over` (below).

    Violation rates are resampled prompt by prompt, perplexities text by text, both models together.
    """
    return [{**ratio.to_row(), "model": above.model, "over": below.model} for ratio in _ratios(above, below)]


def _ratios(above: EvaluationResult, below: EvaluationResult) -> Iterator[Measurement]:
    names = list(above.completions[0].verdicts) if above.completions else []
    judges = {m.tags["judge"] for m in above.measurements if m.name == "judge_violation_rate"}
    constraints = [name for name in names if name not in judges]
    for name in names:
        measured = "judge_violation_rate" if name in judges else "violation_rate"
        ours, theirs = (scores_by_prompt(result.completions, name) for result in (above, below))
        ratio = rate_ratio(ours, theirs, f"{measured}_ratio")
        if ratio is not None:
            if name in judges:
                ratio.tags["judge"] = name
            elif len(constraints) > 1:
                ratio.tags["constraint"] = name
            yield ratio
    for name in above.losses:
        if name in below.losses:
            yield perplexity_ratio(losses_of(above, name), losses_of(below, name), f"{name}_ratio")
    for name in _PLAIN_QUOTIENTS:
        if below[name].value:
            yield Measurement(f"{name}_ratio", above[name].value / below[name].value, n=above[name].n)
