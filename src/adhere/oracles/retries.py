"""A request that failed is tried again where that may help: by tenacity, after waits that double."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.stop import stop_base

from adhere.oracles.attempt import Unanswered

FIRST_WAIT = 0.5
"""Seconds before the second attempt, at most; twice as many before each further one, up to `LONGEST_WAIT`."""
LONGEST_WAIT = 60.0

Value = TypeVar("Value")


async def tried(attempt: Callable[[], Awaitable[Value]], attempts: int, deadline: float) -> Value:
    """What an attempt brings, the first that brings anything.

    Args:
        attempts: how many there are at most.
        deadline: after that none begins (`time.monotonic`).

    Raises:
        Unanswered: of the last attempt.
    """
    try:
        return await attempt()  # most need no second one, and tenacity takes as much of the processor as a request does
    except Unanswered as error:
        failed = [error]

    async def again() -> Value:
        if failed:
            raise failed.pop()  # the first attempt, which counts
        return await attempt()

    trying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, Unanswered) and error.scope == "now"),
        wait=_wait,
        stop=stop_after_attempt(attempts) | _OutOfTime(deadline),
        reraise=True,
    )
    value: Value = await trying(again)
    return value


class _OutOfTime(stop_base):
    """No attempt that would only begin after the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() + retry_state.upcoming_sleep >= self._deadline


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, Unanswered) else None
    return asked if asked is not None else wait_random_exponential(FIRST_WAIT, LONGEST_WAIT)(state)
