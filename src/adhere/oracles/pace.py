"""So many requests, or tokens, a minute."""

from __future__ import annotations


class Pace:
    """Spreads what is used evenly over the minute: services count in windows that nobody outside can see.

    Args:
        a_minute: how much may be used in a minute; None for as much as one likes.
    """

    def __init__(self, a_minute: float | None) -> None:
        self._seconds_each = 0.0 if a_minute is None else 60.0 / a_minute
        self._free_at = float("-inf")

    def wait(self, amount: float, now: float) -> float:
        """Take a turn.

        Args:
            amount: how much will be used.
            now: on a clock that never goes back, in seconds.

        Returns:
            the seconds to wait before using it.
        """
        start = max(self._free_at, now)
        self._free_at = start + amount * self._seconds_each
        return start - now

    def correct(self, amount: float) -> None:
        """Account for more (or, negative, less) having been used than was said when the turn was taken."""
        self._free_at += amount * self._seconds_each
