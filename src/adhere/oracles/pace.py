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

    def wait(self, now: float) -> float:
        """The seconds until the next turn, by a clock that never goes back and says `now`."""
        return max(0.0, self._free_at - now)

    def take(self, amount: float, now: float) -> None:
        """Take that turn, to use so much."""
        self._free_at = max(self._free_at, now) + amount * self._seconds_each

    def correct(self, amount: float) -> None:
        """Account for more (or, negative, less) having been used than was said when the turn was taken."""
        self._free_at += amount * self._seconds_each
