"""The benchmark of the constraint's price: what is run in which order, what is made of the times, a real run of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SECONDS = {"plain": 10.0, "trl": 12.0, "constrained": 11.0}


class Clock:
    """Stands for the runs: each takes its time, which doubles from one turn to the next."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        turn = Path(job["result"]).name.split(".")[-2]
        slow = 2 ** int(turn) if turn.isdigit() else 1
        seconds = SECONDS[job["how"]] * slow * (1 + 0.5 * bool(job["cores"]))
        return {
            "seconds": seconds, "steps": 8, "trained_tokens": 100, "generated_tokens": 0, "expected_seconds": 9.0,
            "peak_gib": 1.5, "parts": {"fitting": 2.0} if job["how"] == "constrained" else {},
        }  # fmt: skip


def _run(script: Any, tmp_path: Path, *words: str, clock: Clock | None = None) -> tuple[dict[str, Any], Clock]:
    clock = clock or Clock()
    overhead = script("overhead")
    overhead.main(["--work", str(tmp_path / "work"), "--results", str(tmp_path), *words], clock)
    (path,) = tmp_path.glob("overhead.*.json")
    return json.loads(path.read_text(encoding="utf-8")), clock


def test_runs_come_in_turn_and_a_ratio_is_taken_within_a_turn(script: Any, tmp_path: Path) -> None:
    told, clock = _run(script, tmp_path, "--steps", "8", "--turns", "3", "--warmup", "2")
    ways = [Path(job["result"]).stem.rpartition(".")[::2] for job in clock.jobs]
    assert [turn for _, turn in ways] == ["warm-up"] * 6 + ["0"] * 6 + ["1"] * 6 + ["2"] * 6
    names = [name for name, _ in ways]
    assert names[6:12] == names[18:24] == names[12:18][::-1]
    ratio = next(row for row in told["rows"] if row["name"] == "constrained_over_plain_one_device")
    assert ratio["value"] == ratio["low"] == ratio["high"] == pytest.approx(1.1) and ratio["n"] == 3
    plain = next(row for row in told["rows"] if row["name"] == "seconds" and row["method"] == "plain")
    assert (plain["value"], plain["low"], plain["high"], plain["unit"]) == (20.0, 10.0, 40.0, "s")


def test_what_was_run_is_not_run_again_and_rows_of_other_lengths_stay(script: Any, tmp_path: Path) -> None:
    _, first = _run(script, tmp_path, "--steps", "8", "--turns", "1", "--warmup", "0")
    told, again = _run(script, tmp_path, "--steps", "8", "--turns", "2", "--warmup", "0")
    assert len(first.jobs) == len(again.jobs) == 6
    told, _ = _run(script, tmp_path, "--steps", "4", "--turns", "1", "--warmup", "0")
    assert {row["steps"] for row in told["rows"]} == {"4", "8"}


def test_kinds_that_were_run_before_stay_and_are_compared_as_far_as_both_went(script: Any, tmp_path: Path) -> None:
    words = ["--steps", "8", "--warmup", "0"]
    _run(script, tmp_path, *words, "--turns", "2", "--only", "plain")
    told, clock = _run(script, tmp_path, *words, "--turns", "1", "--only", "constrained")
    assert [job["how"] for job in clock.jobs] == ["constrained"]
    assert {row["method"]: row["n"] for row in told["rows"] if row["name"] == "seconds"} == {
        "plain": 2,
        "constrained": 1,
    }
    (ratio,) = [row for row in told["rows"] if "_over_" in row["name"]]
    assert ratio["value"] == pytest.approx(1.1) and ratio["n"] == 1


def test_with_a_second_device_the_trainer_and_the_worker_have_a_core_each(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 8})
    told, clock = _run(
        script,
        tmp_path,
        "--steps",
        "8",
        "--turns",
        "1",
        "--warmup",
        "0",
        "--only",
        "plain, one core",
        "constrained, parallel",
    )
    assert [(job["how"], job["cores"], job["worker_cores"]) for job in clock.jobs] == [
        ("plain", [3], []),
        ("constrained", [3], [5]),
    ]
    assert any("schedule=parallel" in setting for setting in clock.jobs[1]["settings"])
    assert [row["name"] for row in told["rows"] if "over" in row["name"]] == ["constrained_over_plain_second_device"]


def test_the_settings_of_every_variant_are_those_of_a_recipe(script: Any, tmp_path: Path, recipe_file: Path) -> None:
    for variant in script("overhead").VARIANTS:
        script("base_recipe").base_recipe(recipe_file, tmp_path, list(variant.settings))


def test_the_table_goes_between_its_marks(script: Any, tmp_path: Path) -> None:
    _run(script, tmp_path, "--steps", "8", "--turns", "1", "--warmup", "0")
    document = tmp_path / "performance.md"
    document.write_text(
        "before\n<!-- overhead -->\nwhat stood here\n<!-- end of overhead -->\nafter\n", encoding="utf-8"
    )
    script("overhead").main(["--results", str(tmp_path), "--table", str(document)])
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "what stood here" not in text
    assert "| constrained | 11 | 9 | 1.50 | 1.100 |" in text and "| plain | 10 | 9 | 1.50 | 1 |" in text


@pytest.mark.parametrize("how", ["plain", "trl", "constrained"])
def test_a_run_of_each_kind_trains_on_the_same_tokens(script: Any, tmp_path: Path, recipe_file: Path, how: str) -> None:
    if how == "trl":
        pytest.importorskip("trl")
    job = {
        "how": how,
        "recipe": str(recipe_file),
        "settings": ["training.max_steps=2"],
        "folder": str(tmp_path / "timed"),
    }
    told = script("timed_run").run(job)
    assert told["steps"] == 2 and told["seconds"] > 0 and told["peak_gib"] > 0
    plain = script("timed_run").run({**job, "how": "plain"})
    assert told["trained_tokens"] == plain["trained_tokens"] > 0
    assert (told["generated_tokens"] > 0) == ("fitting" in told["parts"]) == (how == "constrained")
    assert not (tmp_path / "timed").exists()
