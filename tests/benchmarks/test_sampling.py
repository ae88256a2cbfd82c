"""The benchmark of drawing outputs: each way draws from the same prompts, and only what belongs to an output counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_every_way_is_measured_on_the_same_prompts(
    script: Any, tmp_path: Path, recipe_file: Path, tiny_policy_folder: Path
) -> None:
    words = ["--quick", "--recipe", str(recipe_file), "--model", str(tiny_policy_folder), "--results", str(tmp_path)]
    sampling = script("sampling")
    sampling.main(words)
    sampling.main(words)  # the same model's rows are replaced
    (path,) = tmp_path.glob("sampling.*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    speeds = {row["way"]: row["value"] for row in rows if row["name"] == "tokens_per_second"}
    assert set(speeds) == set(sampling.WAYS) and all(speed > 0 for speed in speeds.values())
    ratios = [row["value"] for row in rows if row["name"] == "tokens_per_second_over_generate"]
    assert ratios == [speeds["adhere"] / speeds["generate"], speeds["adhere"] / speeds["generate, by length"]]
    length = next(row["value"] for row in rows if row["name"] == "output_length")
    assert 1 <= length <= 6
    assert f"| {tiny_policy_folder}, " in sampling.table(
        {"rows": rows, "machine": {"cpu": "c", "cores": 1}, "command": "x", "date": "2026-01-01"}, path
    )
