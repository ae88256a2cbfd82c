"""When a part of a run began and how long it took, as an event: the timeline of the report is drawn from these."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SPENT = "spent"
"""The event: `part` (training, waiting, sampling, labelling, fitting), `iteration`, `began` (Unix time) and `seconds`."""


@contextmanager
def spent(report: Callable[[str, dict[str, Any]], None], part: str, iteration: int) -> Iterator[None]:
    """Report the time of a block, also of one that fails or is stopped."""
    began, start = time.time(), time.monotonic()
    try:
        yield
    finally:
        report(SPENT, span(part, iteration, began, time.monotonic() - start))


def span(part: str, iteration: int, began: float, seconds: float) -> dict[str, Any]:
    """What the event says."""
    return {"part": part, "iteration": iteration, "began": round(began, 3), "seconds": round(seconds, 3)}
