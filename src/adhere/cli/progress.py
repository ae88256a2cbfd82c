"""Progress of long work: bars with the time left on a terminal, a line now and then in a log.

What works reports by calling `progress(stage, done, total, note)`; `shown()` gives it the callable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as LiveBars
from rich.text import Text

from adhere import ranks
from adhere.cli.screen import visible
from adhere.recipe.progress import Progress, silent

SECONDS_BETWEEN_LINES = 5.0
SHORT = 2.0  # a stage that takes no longer leaves no line behind


@contextmanager
def shown() -> Iterator[Progress]:
    """Give the callable that shows progress on stderr for the time of the block."""
    if not ranks.is_first():
        yield silent
        return
    terminal = Console(stderr=True, highlight=False)
    # Both: a table piped elsewhere must not be written into a bar.
    if not (sys.stdout.isatty() and sys.stderr.isatty()) or terminal.is_dumb_terminal:
        yield Lines(sys.stderr)
        return
    bars = Bars(terminal)
    with bars.live:
        try:
            yield bars
        finally:
            bars.close()


class Lines:
    """A line when a stage begins, then at most one every few seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._start = self._stage_start = self._last = clock()
        self._stage = ""
        self._done = self._first = 0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = self._clock()
        begins = stage != self._stage or done < self._done
        self._done = done
        if begins:
            self._stage, self._stage_start, self._first = stage, now, done
        elif now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        parts = [f"{stage} {done:,}/{total:,}" if total else stage, *([note] if note else [])]
        if self._first < done < total:  # a run that is resumed, or comes back from a refresh, begins in the middle
            left = (now - self._stage_start) * (total - done) / (done - self._first)
            parts.append(f"{duration(left)} left")
        print(
            f"[{duration(now - self._start)}] " + visible(", ".join(parts), one_line=True),
            file=self._stream,
            flush=True,
        )


class Bars:
    """One live bar for the stage at work; a stage that took a while leaves a line when it ends."""

    def __init__(self, console: Console) -> None:
        self.live = LiveBars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            speed_estimate_period=120.0,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._done = self._total = 0
        self._start = 0.0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if self._task is None or stage != self._stage or done < self._done:
            self.close()
            self._task = self.live.add_task(visible(stage, one_line=True), total=total or None, completed=done, note="")
            self._stage, self._start = stage, time.monotonic()
        self._done, self._total = done, total
        self.live.update(self._task, completed=done, total=total or None, note=visible(note, one_line=True))

    def close(self) -> None:
        """End the stage at work."""
        if self._task is None:
            return
        took = time.monotonic() - self._start
        self.live.remove_task(self._task)
        self._task = None
        if took >= SHORT:
            count = f"  {self._done:,}/{self._total:,}" if self._total > 1 else ""
            self.live.console.print(
                Text(f"{visible(self._stage, one_line=True)}{count}  {duration(took)}", style="dim")
            )


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 1:05, 2:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
