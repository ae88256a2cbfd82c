"""The benchmark of the head: every way once at a small size, its turns, and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "way", ["fused, plain", "fused, constrained", "materialised, plain", "materialised, constrained"]
)
def test_a_call_of_each_way_at_a_small_size(script: Any, way: str) -> None:
    told = script("head").measured({"way": way, "shape": (12, 50, 8, 4), "repeats": 1})
    assert told["seconds"] > 0 and told["bytes"] >= 1 and "CPU threads" in told["device"]


def test_what_is_compared_computes_the_same(script: Any) -> None:
    import torch

    head = script("head")
    inputs = head._inputs((12, 50, 8, 4), torch.device("cpu"))
    losses = {way: head._call(way, inputs, torch.float32)() for way in head.WAYS[:4]}
    for kind in ("plain", "constrained"):
        torch.testing.assert_close(losses[f"fused, {kind}"], losses[f"materialised, {kind}"], atol=1e-5, rtol=1e-5)


def test_the_ways_come_in_turn_and_it_goes_on_where_it_stopped(script: Any, tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = []

    def measure(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append(job)
        return {"seconds": 1.1 if "constrained" in job["way"] else 1.0, "bytes": 2**30, "device": "1 CPU threads"}

    head = script("head")
    words = ["--quick", "--only", "fused, plain", "fused, constrained", "--work", str(tmp_path / "work"),
             "--results", str(tmp_path)]  # fmt: skip
    head.main(words, measure)
    head.main(words, measure)
    assert [job["way"] for job in jobs] == ["fused, plain", "fused, constrained"]
    (path,) = tmp_path.glob("head.*.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    (ratio,) = (r for r in told["rows"] if r["name"] == "time_over_plain_fused" and r["way"] == "fused, constrained")
    assert ratio["value"] == pytest.approx(1.1) and (ratio["V"], ratio["D"], ratio["R"]) == ("1000", "32", "8")
    assert "| fused, constrained | 1.100 | 1.10 | 1.00 | 1.00 |" in head.table(told, path)
