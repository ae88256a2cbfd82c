"""When guidance is refreshed. Schedules choose when, executors choose where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from adhere.guidance.executors import Executor
from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Request


def boundaries(steps: int, iterations: int) -> list[int]:
    """The optimiser steps at which iterations 0, 1, … begin; as even as whole steps allow.

    Raises:
        ValueError: more iterations than steps.
    """
    if not 1 <= iterations <= steps:
        raise ValueError(f"iterations must be between 1 and the number of training steps ({steps}), got {iterations}")
    return [k * steps // iterations for k in range(iterations)]


class Schedule(Protocol):
    """Hands the trainer its guidance."""

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """The guidance to train step `step` with. Called before every step, with the policy as it stands."""
        ...


class Sequential:
    """At every boundary the policy stands still until the next guidance is ready.

    Args:
        starts: the steps at which iterations begin (`boundaries`).
        executor: where the refreshes run.
    """

    def __init__(self, starts: Sequence[int], executor: Executor) -> None:
        self._starts, self._executor = list(starts), executor
        self._current: Guidance | None = None

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """The guidance of the iteration that `step` is in.

        After a resume the guidance in force comes from disk: it is whole there, since training does not go on before.
        """
        wanted = sum(start <= step for start in self._starts) - 1
        have = -1 if self._current is None else self._current.version.iteration
        # Where `wanted` has yet to be fitted, the one before is taken up too: the fit goes on from it.
        first = wanted if self._current is None and self._executor.holds(wanted) else wanted - 1
        for iteration in range(max(have + 1, first, 0), wanted + 1):
            request = Request(iteration, self._starts[iteration], step, self._current)
            self._current = self._executor.submit(request, policy).result()
        assert self._current is not None
        return self._current
