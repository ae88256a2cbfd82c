"""Points of two measures."""

from __future__ import annotations

from typing import Any

import pytest

from adhere.records import Measurement
from adhere.report.scatter import Axis, Point, scatter_figure


def _x_axis(values: list[float], form: str) -> dict[str, object]:
    points = [Point(f"model {n}", Measurement("x", value), Measurement("y", 0.1 * n)) for n, value in enumerate(values)]
    figure = scatter_figure("key", "title", points, Axis("perplexity", form, "lower"), Axis("violations", "percent"))
    layout: Any = figure.spec["layout"]
    return layout["xaxis"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("values", "form", "is_log"),
    [
        ([134.0, 139.0, 669.0], "number", True),
        ([19.7, 20.6], "number", False),
        ([0.1, 0.9], "percent", False),
        ([0.0, 5.0], "number", False),
    ],
)
def test_numbers_that_lie_far_apart_stand_on_a_logarithmic_axis(values: list[float], form: str, is_log: bool) -> None:
    assert (_x_axis(values, form).get("type") == "log") is is_log
