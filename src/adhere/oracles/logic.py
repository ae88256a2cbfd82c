"""Combinations of oracles: `a & b` (the lesser score), `a | b` (the greater), `~a` (1 − score).

An oracle without a verdict leaves the combination without one only where that decides: `0 & None` is 0, `1 | None` 1. For
the same reason the second part is asked only about what the first has not decided (0 for `&`, 1 for `|`): a rule that costs
nothing spares the judge that is paid for, and no score is another for it. The part that takes less effort is the first one,
whichever way round they are written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from adhere.oracles.base import Oracle, judge
from adhere.oracles.version import version_of


class _Pair(Oracle):
    """Two oracles and the symbol between them."""

    symbol: str
    decided: float
    """The score of one part that is the combination's, whatever the other says."""

    def __init__(self, left: Oracle, right: Oracle) -> None:
        self.left = left
        self.right = right
        self.name = f" {self.symbol} ".join(self._part(oracle) for oracle in (left, right))
        self.version = version_of(symbol=self.symbol, left=[left.name, left.version], right=[right.name, right.version])
        # a & b is violated when either is, a | b when both are; either way it stays so when both stay so.
        self.prefix_closed = left.prefix_closed and right.prefix_closed
        self.judges_prompt = left.judges_prompt or right.judges_prompt
        self.effort = max(left.effort, right.effort)

    @property
    def parts(self) -> tuple[Oracle, ...]:
        return (self.left, self.right)

    def _part(self, oracle: Oracle) -> str:
        return f"({oracle.name})" if isinstance(oracle, _Pair) and oracle.symbol != self.symbol else oracle.name

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        first, second = sorted((self.left, self.right), key=lambda part: part.effort)
        scores = judge(first, prompts, outputs)
        open_ = [position for position, score in enumerate(scores) if score != self.decided]
        if open_:  # an oracle is not asked about nothing
            said = judge(second, [prompts[i] for i in open_], [outputs[i] for i in open_])
            for position, other in zip(open_, said, strict=True):
                scores[position] = self.combine(scores[position], other)
        return scores

    @abstractmethod
    def combine(self, a: float | None, b: float | None) -> float | None:
        """The score of the combination from the scores of its parts."""


class And(_Pair):
    """Satisfied as much as the less satisfied of the two."""

    symbol = "&"
    decided = 0.0

    def combine(self, a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return 0.0 if 0.0 in (a, b) else None
        return min(a, b)


class Or(_Pair):
    """Satisfied as much as the more satisfied of the two."""

    symbol = "|"
    decided = 1.0

    def combine(self, a: float | None, b: float | None) -> float | None:
        if a is None or b is None:
            return 1.0 if 1.0 in (a, b) else None
        return max(a, b)


class Not(Oracle):
    """Satisfied as much as the other is violated. Never prefix-closed: what is satisfied now may be violated later."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.name = f"~({oracle.name})" if isinstance(oracle, _Pair) else f"~{oracle.name}"
        self.version = version_of(symbol="~", oracle=[oracle.name, oracle.version])
        self.judges_prompt = oracle.judges_prompt
        self.effort = oracle.effort

    @property
    def parts(self) -> tuple[Oracle, ...]:
        return (self.oracle,)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return [None if score is None else 1.0 - score for score in judge(self.oracle, prompts, outputs)]
