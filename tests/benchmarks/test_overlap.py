"""The benchmark of the parallel schedule: what is run where, what is made of the times, a real run of each schedule."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SECONDS = {"sequential-worker": 10.0, "parallel-worker": 7.0, "parallel-in-process": 9.0}


def _pretend(job: dict[str, Any]) -> dict[str, Any]:
    asked = dict(setting.split("=", 1) for setting in job["settings"] if setting.startswith("guidance."))
    seconds = SECONDS[f"{asked['guidance.schedule']}-{asked['guidance.executor']}"]
    shared = 1.5 if job["cores"] == job["worker_cores"] else 1.0
    return {"seconds": seconds * shared, "spent": {"training": 6.0, "waiting": seconds - 6.0, "sampling": 2.0}}


def test_trainer_and_worker_have_a_core_each_and_a_ratio_is_taken_within_a_turn(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5})
    jobs: list[dict[str, Any]] = []

    def measure(job: dict[str, Any]) -> dict[str, Any]:
        jobs.append(job)
        return _pretend(job)

    words = ["--work", str(tmp_path / "work"), "--results", str(tmp_path), "--turns", "2"]
    script("overlap").main(words, measure)
    assert [(job["cores"], job["worker_cores"]) for job in jobs[:5]] == [([3], [5])] * 3 + [([3], [3])] * 2
    assert [job["settings"] for job in jobs[5:]] == [job["settings"] for job in jobs[4::-1]]
    assert all(any("slow_oracle:score" in setting for setting in job["settings"]) for job in jobs)
    script("overlap").main(words, measure)
    assert len(jobs) == 10  # what was run is not run again
    (path,) = tmp_path.glob("overlap.*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    ratios = {row["setting"]: row["value"] for row in rows if row["name"] == "parallel_over_sequential"}
    assert ratios == pytest.approx({"own core": 0.7, "own core, same refreshes": 7 / 9, "shared core": 0.7})
    idle = {row["setting"]: row["value"] for row in rows if row["name"] == "trainer_idle_fraction"}
    assert idle["sequential"] == pytest.approx(0.4) and idle["parallel"] == pytest.approx(1 / 7)


def test_the_table_has_the_runs_that_were_asked_for_and_their_ratio(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5})
    words = ["--work", str(tmp_path / "work"), "--results", str(tmp_path), "--turns", "1"]
    script("overlap").main([*words, "--only", "sequential", "parallel", "--samples", "48"], _pretend)
    document = tmp_path / "parallel.md"
    document.write_text("before <!-- overlap --> what stood here <!-- end of overlap --> after", encoding="utf-8")
    script("overlap").main([*words, "--table", str(document)], None)
    text = document.read_text(encoding="utf-8")
    assert "| 90 steps, 6 iterations of 48 outputs, 20 ms a call, 8 at a time | trainer waits | seconds |" in text
    assert "| sequential | 40% | 10 | 6 | 4 | 2 | 0 | 0 |" in text and "| parallel | 14% | 7 |" in text
    assert "| own core | 0.70 |" in text and "not overlapped" not in text and "what stood here" not in text


def test_the_settings_of_every_variant_are_those_of_a_recipe(script: Any, tmp_path: Path, recipe_file: Path) -> None:
    overlap = script("overlap")
    for variant in overlap.VARIANTS:
        script("base_recipe").base_recipe(recipe_file, tmp_path, [overlap.ORACLE, *variant.settings])


def test_the_time_of_a_run_is_told_part_by_part(script: Any, tmp_path: Path, recipe_file: Path) -> None:
    job = {
        "how": "constrained",
        "recipe": str(recipe_file),
        "settings": ["guidance.schedule=parallel", "guidance.executor=in-process", "guidance.iterations=3"],
        "folder": str(tmp_path / "timed"),
    }
    spent = script("timed_run").run(job)["spent"]
    assert set(spent) == {"training", "waiting", "sampling", "labelling", "fitting"}
    assert all(seconds > 0 for seconds in spent.values())


def test_the_slow_oracle_answers_eight_at_a_time(script: Any) -> None:
    import time

    slow = script("slow_oracle")
    start = time.monotonic()
    assert slow.score(["you are a stupid fucking idiot", *["a fine day"] * 16]) == [0.0, *[1.0] * 16]
    assert time.monotonic() - start >= 3 * slow.LATENCY  # 17 calls in three rounds


def test_schedules_are_compared_seed_by_seed(script: Any, tmp_path: Path) -> None:
    schedules, made = script("schedules"), []

    def cell(work: Path, variant: Any, seed: int) -> None:
        made.append((variant.value, seed))
        path = script("defaults")._cell_path(work, variant, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        value = 0.1 + 0.01 * seed + (0.02 + 0.01 * seed) * (variant.value == "parallel")
        row = {"name": "violation_rate", "value": value, "setting": variant.value, "seed": str(seed)}
        path.write_text(json.dumps({"rows": [row]}), encoding="utf-8")

    schedules.main(["--work", str(tmp_path / "work"), "--results", str(tmp_path), "--seeds", "0", "1", "2"], cell)
    assert made == [(schedule, seed) for seed in range(3) for schedule in ("sequential", "parallel")]
    (path,) = tmp_path.glob("schedules.*.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    difference = next(row for row in told["rows"] if row["name"] == "violation_rate_difference")
    # 0.02, 0.03, 0.04: mean 0.03, standard error 0.01 / √3, t of two degrees of freedom 4.303.
    assert difference["value"] == pytest.approx(0.03) and difference["n"] == 3
    assert difference["high"] - difference["value"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-3)
    assert told["seeds"] == [0, 1, 2] and len(told["rows"]) == 7
    document = tmp_path / "parallel.md"
    document.write_text("<!-- schedules --> what stood here <!-- end of schedules -->", encoding="utf-8")
    schedules.main(["--results", str(tmp_path), "--table", str(document)])
    text = document.read_text(encoding="utf-8")
    assert (
        "| sequential | 2 | 0.120 | – |" in text
        and "| parallel | 0 | 0.120 | – |" in text
        and "what stood here" not in text
    )
    assert "| parallel minus sequential | +0.030 [+0.005, +0.055] |" in text


def test_rows_of_the_table_of_defaults_whose_cells_are_elsewhere_stay(script: Any, tmp_path: Path) -> None:
    defaults = script("defaults")
    variant = defaults.VARIANTS[0]
    here = defaults._cell_path(tmp_path, variant, 0)
    here.parent.mkdir(parents=True)
    row = {"name": "violation_rate", "choice": variant.choice, "setting": variant.value, "seed": "0", "value": 0.1}
    here.write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    before = [{**row, "value": 0.9}, {**row, "seed": "1", "value": 0.2}]
    told = defaults._results(tmp_path, [0], before)
    assert [(each["seed"], each["value"]) for each in told["rows"]] == [("1", 0.2), ("0", 0.1)]
    assert told["seeds"] == [0, 1]


def test_the_worker_is_killed_in_its_second_refresh_and_nothing_else_is(script: Any, tmp_path: Path) -> None:
    schedules, events = script("schedules"), tmp_path / "events.jsonl"
    # A process by the worker's name that does nothing: what follows -c is its argument.
    idle = [sys.executable, "-c", "import time; time.sleep(60)"]
    names = ("adhere.guidance.worker", "something.else")
    worker, other = (subprocess.Popen([*idle, name]) for name in names)
    try:
        with schedules.worker_killed(events, enabled=True):
            events.write_text('{"event": "sampled"}\n{"event": "fitted"}\n', encoding="utf-8")
            time.sleep(0.6)
            assert worker.poll() is None
            events.write_text('{"event": "sampled"}\n{"event": "fitted"}\n{"event": "sampled"}\n', encoding="utf-8")
            assert worker.wait(timeout=10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (worker, other):
            process.kill()
            process.wait()
