"""When guidance is refreshed. Schedules choose when, executors choose where."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from transformers import PreTrainedModel

from adhere.guidance.attempts import Attempts
from adhere.guidance.executors import Executor
from adhere.guidance.guidance import Guidance
from adhere.guidance.labelling import Report
from adhere.guidance.refresh import Request

MAX_FAILURES = 5


def boundaries(steps: int, iterations: int) -> list[int]:
    """The optimiser steps at which iterations 0, 1, … begin; as even as whole steps allow.

    Raises:
        ValueError: more iterations than steps.
    """
    if not 1 <= iterations <= steps:
        raise ValueError(f"iterations must be between 1 and the number of training steps ({steps}), got {iterations}")
    return [k * steps // iterations for k in range(iterations)]


@dataclass(frozen=True, slots=True)
class InForce:
    """Where a schedule stands, as a checkpoint keeps it: enough for any schedule to go on from there.

    `guidance` is the iteration that the guidance in force was made in, `refreshing` that of a refresh under way.
    """

    guidance: int
    refreshing: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Schedule(Protocol):
    """Hands the trainer its guidance."""

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """The guidance to train step `step` with. Called before every step, with the policy as it stands.

        Raises:
            RefreshError: it could not be made, however often that was tried.
        """
        ...

    def in_force(self) -> InForce:
        """Where it stands; known once guidance was handed over."""
        ...

    def told(self) -> dict[str, float]:
        """For the log, of the iteration that has just begun: how stale its guidance is, and what the trainer waited for.

        `staleness/iterations` and `staleness/steps` between the policy that it was made from and the one it is taken up by;
        `waited_seconds` of the trainer at the boundary; `refresh_seconds` that making it took, where it was made just now.
        """
        ...

    def close(self) -> None:
        """Training is over, or has failed: nothing goes on elsewhere."""
        ...


class Sequential:
    """At every boundary the policy stands still until the next guidance is ready.

    Args:
        starts: the steps at which iterations begin (`boundaries`).
        executor: where the refreshes run.
        taken_up: where the run stood in the checkpoint that training goes on from.
        max_failures: failed attempts at a refresh after which the run stops.
        report: told of failures.
    """

    def __init__(
        self,
        starts: Sequence[int],
        executor: Executor,
        taken_up: InForce | None = None,
        max_failures: int = MAX_FAILURES,
        report: Report = lambda *_: None,
    ) -> None:
        self._starts, self._executor, self._taken_up = list(starts), executor, taken_up
        self._max_failures, self._report = max_failures, report
        self._current: Guidance | None = None
        self._handled = -1  # the last iteration for which there is guidance
        self._told: dict[str, float] = {}

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """The guidance of the iteration that `step` is in.

        After a resume the guidance in force comes from disk: it is whole there, since training does not go on before.
        """
        wanted, since = iteration_at(step, self._starts), time.monotonic()
        if self._handled == wanted:
            assert self._current is not None
            return self._current
        if self._current is None:
            self._take_up(wanted, step, policy)
        seconds = 0.0
        for iteration in range(max(self._handled + 1, 0), wanted + 1):
            request = Request(iteration, self._starts[iteration], step, self._current)
            refresh = Attempts(self._executor, request, policy, self._max_failures, self._report)
            self._current = refresh.insist(step, policy)
            seconds = refresh.seconds
        self._handled = wanted
        assert self._current is not None
        self._told = told(step, self._starts, self._current, time.monotonic() - since, seconds)
        return self._current

    def in_force(self) -> InForce:
        assert self._current is not None
        return InForce(self._current.version.iteration)

    def told(self) -> dict[str, float]:
        return self._told

    def close(self) -> None:
        self._executor.close()

    def _take_up(self, wanted: int, step: int, policy: PreTrainedModel) -> None:
        """What was in force in the checkpoint; where that is not known, what the one wanted goes on from."""
        at_boundary = step in self._starts
        if self._executor.holds(wanted) and (at_boundary or self._taken_up is None):
            self._handled = wanted - 1
        elif self._taken_up is None:
            self._handled = wanted - 2  # `wanted` has yet to be fitted, and goes on from the one before
        else:
            self._current = held(self._executor, self._taken_up.guidance, self._starts, step, policy)
            # A run that was parallel goes on with what it has until the next boundary.
            self._handled = wanted - 1 if at_boundary else wanted


def iteration_at(step: int, starts: Sequence[int]) -> int:
    """The iteration that a step is in."""
    return bisect_right(starts, step) - 1


def held(executor: Executor, iteration: int, starts: Sequence[int], step: int, policy: PreTrainedModel) -> Guidance:
    """Guidance that is on disk. Raises RunFolderError when it is not."""
    return executor.submit(Request(iteration, starts[iteration], step, None), policy).result()


def told(
    step: int, starts: Sequence[int], guidance: Guidance, waited_seconds: float, refresh_seconds: float
) -> dict[str, float]:
    """What `Schedule.told` says."""
    numbers = {
        "staleness/iterations": float(iteration_at(step, starts) - guidance.version.iteration),
        "staleness/steps": float(step - guidance.version.policy_step),
        "waited_seconds": round(waited_seconds, 3),
    }
    return numbers | ({"refresh_seconds": round(refresh_seconds, 3)} if refresh_seconds else {})
