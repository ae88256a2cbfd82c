"""The contract of an oracle, and the one place that checks it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from adhere.errors import OracleError
from adhere.records import Verdict

if TYPE_CHECKING:
    from adhere.oracles.config import OracleConfig

SATISFIED = 0.5
"""An output violates its constraint when its score is below this."""


class Effort(IntEnum):
    """What an answer takes; combinations ask the part that takes less first."""

    RULE = 0
    MODEL = 1
    SERVICE = 2


class Oracle(ABC):
    """Judges whole outputs: one number in [0, 1] per output, 1 = the constraint is satisfied, `None` = no verdict.

    Subclasses set `name` and `version` (together they identify verdicts on disk: change the version when verdicts may
    change) and write `score`.

    Attributes:
        name: what messages, files and tables call it.
        version: changes whenever the same output could get another score.
        prefix_closed: True when a violating text stays violating however it goes on at a word boundary. Such an oracle
            is also asked about prefixes, which tells the auxiliary model where the violation happened.
        judges_prompt: True when the prompt matters; otherwise `score` receives empty prompts.
        effort: what an answer takes.
        section: the section of a recipe it was built from, where it was: another process builds it from that again.
    """

    name: str
    version: str
    prefix_closed: bool = False
    judges_prompt: bool = False
    effort: Effort = Effort.MODEL
    section: OracleConfig | None = None

    @abstractmethod
    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        """Score `outputs[i]` as the answer to `prompts[i]`.

        Returns:
            one number in [0, 1], or None, for each output, in order.
        """

    @property
    def parts(self) -> tuple[Oracle, ...]:
        """The oracles that this one asks."""
        return ()

    def trouble(self) -> str:
        """Why verdicts were missing so far, in a few words for messages; empty when nothing is known of it."""
        return "; ".join(said for part in self.parts if (said := part.trouble()))

    def __and__(self, other: Oracle) -> Oracle:
        from adhere.oracles.logic import And

        return And(self, other)

    def __or__(self, other: Oracle) -> Oracle:
        from adhere.oracles.logic import Or

        return Or(self, other)

    def __invert__(self) -> Oracle:
        from adhere.oracles.logic import Not

        return Not(self)


def judge(oracle: Oracle, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
    """Ask the oracle and hold it to its contract.

    Raises:
        OracleError: the oracle raised, returned another count than it was given, or a score that is not a number in
            [0, 1] (NaN included). The message names the oracle and quotes the start of the output concerned.
    """
    if isinstance(prompts, str) or isinstance(outputs, str):
        raise TypeError(
            "prompts and outputs must be lists of texts, got one text: it would be judged character by character"
        )
    if len(prompts) != len(outputs):
        raise ValueError(f"{len(prompts)} prompts for {len(outputs)} outputs")
    asked = list(prompts) if oracle.judges_prompt else [""] * len(outputs)
    try:
        scores = oracle.score(asked, list(outputs))
    except OracleError:
        raise
    except Exception as error:
        raise OracleError(
            f"oracle {oracle.name!r} raised {type(error).__name__}: {error} (while scoring {len(outputs)} outputs); "
            "an oracle that cannot judge an output returns None for it"
        ) from error
    if not isinstance(scores, (list, tuple)) or len(scores) != len(outputs):
        got = f"{len(scores)} scores" if isinstance(scores, (list, tuple)) else f"a {type(scores).__name__}"
        raise OracleError(
            f"oracle {oracle.name!r} must return a list of {len(outputs)} scores, one per output; got {got}"
        )
    checked: list[float | None] = []
    for score, output in zip(scores, outputs, strict=True):
        checked.append(None if score is None else _number(oracle, score, output))
    return checked


def _number(oracle: Oracle, score: object, output: str) -> float:
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:  # false for NaN too
        raise OracleError(
            f"oracle {oracle.name!r} must return numbers in [0, 1] (1 = satisfied) or None; got {score!r} for the output "
            f"{output[:60]!r}"
        )
    return number


def violates(score: float) -> bool:
    """True when an output with this score violates the constraint."""
    return score < SATISFIED


def verdicts(oracle: Oracle, prompts: Sequence[str], outputs: Sequence[str]) -> list[Verdict]:
    """`judge`, as records without prefix scores."""
    return [Verdict(score) for score in judge(oracle, prompts, outputs)]
