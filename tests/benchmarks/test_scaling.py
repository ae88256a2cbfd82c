"""The benchmark of how a step grows: its shapes, its ratios, and a tiny step of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_every_axis_is_measured_in_turn_and_goes_on_where_it_stopped(script: Any, tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = []

    def measure(job: dict[str, Any]) -> dict[str, float]:
        jobs.append(job)
        return {
            "seconds": job["shape"]["vocabulary"] / 1000 * (1.2 if job["how"] == "constrained" else 1),
            "peak_gib": 2.0,
        }

    words = [
        "--axes",
        "vocabulary",
        "constraints",
        "--turns",
        "2",
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path),
    ]
    scaling = script("scaling")
    scaling.main(words, measure)
    assert [job["how"] for job in jobs[:4]] == ["plain", "constrained", "constrained", "plain"]
    count = len(jobs)
    scaling.main(words, measure)
    assert len(jobs) == count
    (path,) = tmp_path.glob("scaling.*.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    ratios = [row for row in told["rows"] if row["name"] == "time_over_plain"]
    assert len(ratios) == 4 + 3 and all(row["value"] == pytest.approx(1.2) for row in ratios)
    table = scaling.table(told, path)
    assert "| vocabulary 1,024 | 1.024 | 1.229 | 1.20 | 2.00 | 2.00 | 1.00 |" in table and "| constraints 4 |" in table


@pytest.mark.parametrize("how", ["plain", "constrained"])
def test_a_tiny_step_of_each_kind(script: Any, how: str) -> None:
    scaling = script("scaling")
    told = scaling.run({"how": how, "steps": 3, "shape": {**scaling.QUICK, "constraints": 2}})
    assert told["seconds"] > 0 and told["peak_gib"] > 0


def test_rows_are_as_long_as_they_are_said_to_be_and_some_violate(script: Any) -> None:
    scaling = script("scaling")
    shape = {**scaling.COMMON, "length": 12, "constraints": 2, "vocabulary": 100}
    _, tokenizer = scaling._model({**shape, "width": 16, "layers": 1})
    rows = scaling._corpus(shape, 3)
    assert len(rows) == 24
    assert {len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) for row in rows} == {11}
    bad = [{"w0", "w1"} <= set(row["completion"].split()) for row in rows]
    assert sum(bad) == 6 and not any(
        "w0" in row["completion"].split() for row, is_bad in zip(rows, bad, strict=True) if not is_bad
    )
