"""The simulation that gain and lag of an adaptive λ were chosen by."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from adhere.guidance.constraint import DualConfig


def test_a_world_settles_where_its_line_says(script: Any) -> None:
    multiplier = script("multiplier")
    world = multiplier.World(steps=75, lag=4, delay=0, slope=1.2, start=0.75)
    assert world.settled(math.log(multiplier.WEIGHT)) == pytest.approx(math.log(0.92 / 0.08))
    assert world.settled(world.needed(0.99)) == pytest.approx(math.log(99))


def test_without_any_gain_a_policy_ends_where_the_first_multiplier_puts_it(script: Any) -> None:
    multiplier = script("multiplier")
    for world in (multiplier.World(300, 4, delay, 1.0, 0.75) for delay in (0, 8)):
        share, highest = multiplier.simulated(world, 0.99, DualConfig(gain=1e-9), seed=0)
        assert share == pytest.approx(0.92, abs=1e-6) and highest == pytest.approx(math.log(2), abs=1e-6)


def test_the_table_has_a_line_a_setting_and_marks_the_shipped_one(script: Any, tmp_path: Path) -> None:
    multiplier = script("multiplier")
    multiplier.main(["--gains", "0.3", "--lags", "0.001", "12", "--seeds", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("multiplier.*.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    assert {row["n"] for row in told["rows"]} == {48} and len(told["rows"]) == 2 * 2 * 4
    document = tmp_path / "page.md"
    document.write_text("<!-- multiplier -->\n<!-- end of multiplier -->\n", encoding="utf-8")
    multiplier.main(["--results", str(tmp_path), "--table", str(document)])
    written = document.read_text(encoding="utf-8")
    assert "| 0.3, none |" in written and "| **0.3, 12** |" in written
