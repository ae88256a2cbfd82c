"""How long work tells of itself; the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then while a stage is at work, and when it ends (done = total)."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """
        Args:
            stage: what is being done; another stage than before begins anew.
            done, total: how much of it; total is 0 where nobody knows.
            note: a few words, such as the speed.
        """
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""
