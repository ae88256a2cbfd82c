"""Constraints whose oracles are asked about whole outputs alone: a baseline has no use for where a violation happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle


class WholeOutputs(Oracle):
    """An oracle that is not asked about prefixes; otherwise the one it is given, under the same name and version."""

    prefix_closed = False

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self.name, self.version, self.judges_prompt = oracle.name, oracle.version, oracle.judges_prompt

    @property
    def parts(self) -> tuple[Oracle, ...]:
        return (self._oracle,)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return self._oracle.score(prompts, outputs)


def on_whole_outputs(constraints: Sequence[Constraint]) -> list[Constraint]:
    """The constraints with such oracles."""
    return [replace(constraint, oracle=WholeOutputs(constraint.oracle)) for constraint in constraints]
