"""How often outputs violate a constraint. An output without a verdict is left out and counted, never guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adhere.errors import OracleError
from adhere.evaluation.intervals import rate
from adhere.oracles.base import violates
from adhere.records import LabelledSample, Measurement

Scores = Sequence[Sequence[float | None]]
"""For each prompt, the score of each of its outputs: 1 = satisfied, 0 = violated, None = no verdict."""


def scores_by_prompt(completions: Sequence[LabelledSample], constraint: str) -> list[list[float | None]]:
    """One constraint's scores, a list for each prompt, prompts in order of their index (so that models pair up)."""
    grouped: dict[int, list[float | None]] = {}
    for labelled in sorted(completions, key=lambda item: (item.sample.prompt_index, item.sample.replicate)):
        grouped.setdefault(labelled.sample.prompt_index, []).append(labelled.verdicts[constraint].score)
    return list(grouped.values())


def violation_rate(scores: Scores, name: str = "violation_rate", seed: int = 0) -> Measurement:
    """The share of judged outputs whose score is below 0.5.

    Wilson's interval with one output a prompt, a bootstrap over prompts with several (`intervals.rate`). Tags:
    `interval` names the method, `prompts` counts prompts with a verdict, `no_verdict` counts outputs without one; `n`
    is the number of judged outputs.

    Raises:
        OracleError: not one output has a verdict.
        ValueError: a score is not a number in [0, 1] (NaN would pass for satisfied).
    """
    judged = judged_scores(scores)
    estimate, method = rate([[violates(score) for score in of_prompt] for of_prompt in judged], seed)
    counted = sum(map(len, judged))
    tags = {"interval": method, "prompts": str(len(judged)), "no_verdict": str(sum(map(len, scores)) - counted)}
    return Measurement(name, *estimate, n=counted, tags=tags)


def judged_scores(scores: Scores) -> list[list[float]]:
    """The scores without the missing ones; prompts that have none left are gone.

    Raises:
        OracleError: not one output has a verdict.
        ValueError: a score is not a number in [0, 1].
    """
    judged = [[score for score in of_prompt if score is not None] for of_prompt in scores]
    for score in (score for of_prompt in judged for score in of_prompt):
        if math.isnan(score) or not 0.0 <= score <= 1.0:
            raise ValueError(f"a score must be a number in [0, 1] or None, got {score!r}")
    judged = [of_prompt for of_prompt in judged if of_prompt]
    if not judged:
        raise OracleError(
            f"the judge gave no verdict on any of the {sum(map(len, scores))} outputs, so there is nothing to measure; "
            "see why it fails (for a remote judge: its address, its key, its limits) and evaluate again"
        )
    return judged
