"""Which models nobody beats in both of two measures."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points that no other point dominates, in the order of their first coordinate.

    Lower is better in both coordinates: give −x where higher is. A point dominates another when it is no worse in
    both and better in one; equal points do not dominate each other.
    """
    kept = [
        place
        for place, (x, y) in enumerate(points)
        if not any((a <= x and b <= y) and (a < x or b < y) for a, b in points)
    ]
    return sorted(kept, key=lambda place: points[place])
