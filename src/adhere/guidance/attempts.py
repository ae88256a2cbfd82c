"""One refresh, tried again when an attempt at it fails: a lost process, a service that did not answer, no memory.

Every attempt goes on from what the one before has put on disk. Between two of them lies a pause that grows from one to the
next, and after `max_failures` in a row the refresh is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from adhere.errors import RefreshError
from adhere.guidance.executors import Executor, Pending
from adhere.guidance.guidance import Guidance
from adhere.guidance.labelling import Report
from adhere.guidance.refresh import Request

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0
GROWTH = 4.0
"""Seconds before the second attempt, the longest pause, and by how much a pause is longer than the one before."""


class Attempts:
    """A refresh under way; the first attempt begins here.

    Args:
        executor: makes an attempt.
        request: which guidance.
        policy: as it stands at `request.step`.
        max_failures: failed attempts after which there is no other.
        report: told of every failure.
        clock, sleep: the time, for tests.

    Raises:
        RefreshError: from every method: the last attempt that was allowed has failed.
        Exception: what no other attempt would mend.
    """

    def __init__(
        self,
        executor: Executor,
        request: Request,
        policy: PreTrainedModel,
        max_failures: int,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.request = request
        self.seconds = 0.0
        self._executor, self._max_failures, self._report = executor, max_failures, report
        self._clock, self._sleep = clock, sleep
        self._failures, self._again_at = 0, 0.0
        self._pending: Pending | None = None
        self._guidance: Guidance | None = None
        self._begin(request.step, policy)

    def poll(self, step: int, policy: PreTrainedModel) -> None:
        """Look after it without waiting: notice a failure, begin the next attempt when its time has come."""
        if self._guidance is not None:
            return
        if self._pending is None:
            if self._clock() >= self._again_at:
                self._begin(step, policy)
        elif self._pending.done():
            self._result()

    def take(self, step: int, policy: PreTrainedModel) -> Guidance | None:
        """The guidance; waits for the attempt under way, and for no other: None when that has failed."""
        if self._pending is None:
            self.poll(step, policy)
        if self._guidance is None and self._pending is not None:
            self._result()
        return self._guidance

    def insist(self, step: int, policy: PreTrainedModel) -> Guidance:
        """The guidance, however many attempts it takes."""
        while True:
            guidance = self.take(step, policy)
            if guidance is not None:
                return guidance
            self._sleep(max(0.0, self._again_at - self._clock()))

    def _begin(self, step: int, policy: PreTrainedModel) -> None:
        try:
            self._pending = self._executor.submit(replace(self.request, step=step), policy)
        except RefreshError as error:
            self._failed(error)

    def _result(self) -> None:
        assert self._pending is not None
        try:
            self._guidance = self._pending.result()
        except RefreshError as error:
            self._failed(error)
        else:
            self.seconds = self._pending.seconds

    def _failed(self, error: RefreshError) -> None:
        self._pending = None
        self._failures += 1
        iteration, gives_up = self.request.iteration, self._failures >= self._max_failures
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * GROWTH ** (self._failures - 1))
        self._again_at = self._clock() + pause
        told = {"iteration": iteration, "failure": self._failures, "of": self._max_failures, "why": str(error)}
        self._report("refresh failed", told if gives_up else {**told, "again_in_seconds": pause})
        if gives_up:
            times = "once" if self._failures == 1 else f"{self._failures} times in a row"
            raise RefreshError(
                f"stopped: the guidance of iteration {iteration} could not be made, it failed {times} "
                f"(guidance.max_failures), the last time because {error}. Everything sampled and judged so far is on disk, and "
                "so is the training: when the cause is mended, the same command with --resume goes on from there"
            ) from error
