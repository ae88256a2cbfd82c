"""Outputs that got no verdict are asked about again."""

from __future__ import annotations

from collections.abc import Sequence

from adhere.oracles.base import Oracle, judge

LATER_PASSES = 2
"""How often what is missing is asked for again, once everything has been asked for: services come back."""


def judge_again(
    oracle: Oracle,
    prompts: Sequence[str],
    outputs: Sequence[str],
    scores: Sequence[float | None],
    passes: int = LATER_PASSES,
) -> list[float | None]:
    """Ask for the verdicts that are missing, and for those alone.

    Args:
        scores: what `judge` gave for these prompts and outputs.
        passes: how often.

    Returns:
        the scores, in order; None where there is still no verdict.

    Raises:
        OracleError: the oracle broke its contract.
    """
    found = list(scores)
    for _ in range(passes):
        missing = [position for position, score in enumerate(found) if score is None]
        if not missing:
            break
        said = judge(oracle, [prompts[i] for i in missing], [outputs[i] for i in missing])
        for position, score in zip(missing, said, strict=True):
            found[position] = score
    return found
