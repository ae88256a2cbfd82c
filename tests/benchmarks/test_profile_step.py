"""The profile of a step: every operator is counted once, in the part that it lies in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Event:
    name: str
    self_cpu_time_total: float
    input_shapes: list[Any]
    cpu_parent: Event | None = None


class Profile:
    def __init__(self, *events: Event) -> None:
        self._events = events

    def events(self) -> tuple[Event, ...]:
        return self._events


def test_an_operator_belongs_to_the_innermost_part_and_to_a_kind(script: Any) -> None:
    outer = Event("part: forward", 100.0, [])
    inner = Event("part: NADO's trunk", 0.0, [], outer)
    profiled = Profile(
        outer,
        inner,
        Event("aten::mm", 2000.0, [[8, 16], [16, 99]], outer),
        Event("aten::_softmax", 1000.0, [[8, 99], [], []], outer),
        Event("aten::addmm", 500.0, [[8], [8, 16], [16, 8]], inner),
        Event("aten::copy_", 250.0, [], None),
    )
    bench = script("profile_step")
    rows = {(row["part"], row["kind"]): row["value"] for row in bench.summary("plain", profiled, 2, 99)}
    assert rows == {
        ("forward", bench.OTHER): 0.05,
        ("forward", bench.VOCABULARY_PRODUCT): 1.0,
        ("forward", bench.VOCABULARY_WIDE): 0.5,
        ("NADO's trunk", bench.OTHER): 0.25,
        (bench.REST, bench.OTHER): 0.125,
    }


def test_a_real_step_of_each_kind_and_a_refresh_are_told_part_by_part(
    script: Any, tmp_path: Path, recipe_file: Path
) -> None:
    bench = script("profile_step")
    bench.main(["--recipe", str(recipe_file), "--steps", "1", "--warmup", "1", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("profile_step.*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    parts = {run: {row["part"] for row in rows if row["run"] == run} for run in bench.RUNS}
    assert {"forward", "backward", "optimiser"} <= parts["plain"] & parts["constrained"]
    assert {"sampling", "labelling", "reading the samples", "fitting"} <= parts["refresh"]
    assert "NADO's trunk" in parts["constrained"] and "NADO's trunk" not in parts["plain"]
    table = bench.table(json.loads(path.read_text(encoding="utf-8")), path)
    assert "| a step, plain, ms |" in table and "| one refresh, ms |" in table
