"""The parallel schedule: the policy is trained while the next guidance is made (method.md §4).

Iteration 0 is sequential. At every boundary k ≥ 1 the trainer takes the guidance that was made, meanwhile, from the policy as
it stood at boundary k − 1, and a refresh begins from the policy as it stands now:

    iteration        0                 1                         2
    trained with     guidance 0        guidance 0                guidance 1 …
    meanwhile        —                 1, of boundary 1          2, of boundary 2 …

So guidance is one iteration stale. It is taken at boundaries alone, and waited for where it is not ready: which guidance a step
is trained with never depends on how long anything took. Only a refresh that fails changes that: where the last attempt has
failed when the boundary comes, the trainer goes on with the guidance it has, and takes the next at a later boundary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from transformers import PreTrainedModel

from adhere.guidance.attempts import Attempts
from adhere.guidance.executors import Executor
from adhere.guidance.guidance import Guidance
from adhere.guidance.labelling import Report
from adhere.guidance.refresh import Request
from adhere.guidance.schedule import MAX_FAILURES, InForce, held, iteration_at, told


class Parallel:
    """At every boundary the trainer takes what was made meanwhile, and starts the next refresh.

    Args:
        starts, executor, taken_up, max_failures: as `Sequential`.
        report: told of failures, and where training goes on with the guidance it has.
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
        self._refresh: Attempts | None = None
        self._handled = -1  # the last iteration whose beginning was handled
        self._told: dict[str, float] = {}

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """The guidance in force; at a boundary the one made since the last, waited for where it is not ready."""
        iteration, since = iteration_at(step, self._starts), time.monotonic()
        seconds = 0.0
        if self._current is None:
            seconds = self._begin(iteration, step, policy)
        if self._handled < iteration:
            seconds = self._take(step, policy) or seconds
            if self._refresh is None and 0 < iteration < len(self._starts) - 1:
                # Nothing would be trained with guidance that is made during the last iteration.
                self._refresh = self._attempts(Request(iteration, step, step, self._current), policy)
            assert self._current is not None
            self._told = told(step, self._starts, self._current, time.monotonic() - since, seconds)
            self._handled = iteration
        elif self._refresh is not None:
            self._refresh.poll(step, policy)
        assert self._current is not None
        return self._current

    def in_force(self) -> InForce:
        assert self._current is not None
        refreshing = None if self._refresh is None else self._refresh.request.iteration
        return InForce(self._current.version.iteration, refreshing)

    def told(self) -> dict[str, float]:
        return self._told

    def close(self) -> None:
        self._executor.close()

    def _begin(self, iteration: int, step: int, policy: PreTrainedModel) -> float:
        """The first guidance of all, or what was in force in the checkpoint. Returns the seconds that making it took."""
        at_boundary = step in self._starts
        self._handled = iteration - 1 if at_boundary else iteration
        if step == 0:
            first = self._attempts(Request(0, 0, 0, None), policy)
            self._current = first.insist(step, policy)
            return first.seconds
        # A checkpoint that does not say is of a sequential run.
        stood = self._taken_up or InForce(iteration - 1 if at_boundary else iteration)
        self._current = held(self._executor, stood.guidance, self._starts, step, policy)
        if stood.refreshing is not None:
            request = Request(stood.refreshing, self._starts[stood.refreshing], step, self._current)
            self._refresh = self._attempts(request, policy)
        return 0.0

    def _take(self, step: int, policy: PreTrainedModel) -> float:
        """Take up the guidance that is due, if there is any; returns the seconds that making it took."""
        if self._refresh is None:
            return 0.0
        taken, seconds = self._refresh.take(step, policy), self._refresh.seconds
        if taken is not None:
            self._current, self._refresh = taken, None
            return seconds
        assert self._current is not None
        going_on = {"iteration": self._refresh.request.iteration, "with": self._current.version.iteration}
        self._report("goes on with the last guidance", going_on)
        if step == self._starts[-1]:
            self._refresh = None  # no boundary is left to take it at
        return 0.0

    def _attempts(self, request: Request, policy: PreTrainedModel) -> Attempts:
        return Attempts(self._executor, request, policy, self._max_failures, self._report)
