"""Verdicts that are missing: asked for again, counted, and a reason to stop where there are too many.

An output without a verdict is neither satisfied nor violating, and nothing is learned from it. A few such outputs do no
harm. Many do: services fail on long texts, on foul ones, on all of them from noon on, and what is left is another set of
outputs than the policy's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from adhere.errors import VerdictsMissingError
from adhere.guidance.constraint import Constraint
from adhere.guidance.labels import label
from adhere.oracles.again import LATER_PASSES
from adhere.records import Verdict

AT_ONCE = 256
"""Outputs between two times that what was found is handed on, to be put on disk."""

Found = dict[int, dict[str, Verdict]]
"""By position, the verdicts that were missing, by constraint."""


def found_later(
    constraints: Sequence[Constraint],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    outputs: Sequence[str],
    output_ids: Sequence[Sequence[int]],
    verdicts: Sequence[Mapping[str, Verdict]],
    passes: int = LATER_PASSES,
) -> Iterator[tuple[Found, Counter[str]]]:
    """Ask again for the verdicts that are missing, and for those alone.

    Args:
        constraints, tokenizer, prompts, outputs, output_ids: as `label` takes them.
        verdicts: what it gave.
        passes: how often over all that is missing.

    Yields:
        every time something was found: what, and what asking has cost since the last time.

    Raises:
        OracleError: an oracle broke its contract.
    """
    missing = {c.name: [i for i, said in enumerate(verdicts) if said[c.name].score is None] for c in constraints}
    for _ in range(passes):
        for constraint in constraints:
            asked, missing[constraint.name] = missing[constraint.name], []
            for start in range(0, len(asked), AT_ONCE):
                part, spent = asked[start : start + AT_ONCE], Counter[str]()
                said = label(
                    [constraint],
                    tokenizer,
                    [prompts[i] for i in part],
                    [outputs[i] for i in part],
                    [output_ids[i] for i in part],
                    spent,
                )
                found = {i: v for i, v in zip(part, said, strict=True) if v[constraint.name].score is not None}
                missing[constraint.name] += [i for i in part if i not in found]
                # They were counted as asked and missed when they were asked first.
                spent.pop("oracle_calls")
                spent["no_verdict"] = -len(found)
                yield found, spent


def require_verdicts(
    constraints: Sequence[Constraint], verdicts: Sequence[Mapping[str, Verdict]], allowed: float, what: str
) -> dict[str, int]:
    """Count what is still missing, and stop where it is too much.

    Args:
        allowed: the largest share that may be missing of each constraint (`guidance.max_without_verdict`).
        what: was judged, for the message: "outputs of iteration 0".

    Returns:
        by constraint, how many have no verdict.

    Raises:
        VerdictsMissingError: more of them than allowed.
    """
    missing = {c.name: sum(said[c.name].score is None for said in verdicts) for c in constraints}
    for constraint in constraints:
        count, total = missing[constraint.name], len(verdicts)
        if count > allowed * total:
            why = constraint.oracle.trouble()
            raise VerdictsMissingError(
                f"paused: {count} of {total} {what} got no verdict from constraint {constraint.name!r} "
                f"({count / total:.0%}, and guidance.max_without_verdict is {allowed:.0%})"
                f"{f': {why}' if why else ''}. Nothing was learned from what is left. All verdicts that came, and all "
                "before them, are on disk: when the oracle answers again, the same command with --resume asks for the "
                "missing ones alone and goes on. To go on without them, raise guidance.max_without_verdict"
            )
    return missing
