"""The parallel schedule from a recipe: what the plan says of it, going on with it, and a worker that dies in the middle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import RecipeError, RunFolderError
from adhere.recipe.check import check_recipe
from adhere.recipe.folder import begin, check_folder
from adhere.recipe.load import parse_recipe
from adhere.recipe.overlap import elsewhere, nothing_meanwhile, overlapped_seconds
from adhere.recipe.schema import Recipe
from adhere.recipe.train import train_recipe
from adhere.recipe.workload import refreshes
from adhere.report.html import write_report

MakeRecipe = Callable[..., Recipe]

PARALLEL = {"schedule": "parallel", "iterations": 4}


def test_the_plan_says_when_and_where_guidance_is_made_and_counts_one_less(make_recipe: MakeRecipe) -> None:
    plan = check_recipe(make_recipe(guidance=PARALLEL))
    assert plan.samples == 3 * 8
    assert dict(plan.lines())["guidance"] == (
        "made 3 times, all but the first while the model is trained, by a worker process; both share the device, and take as "
        "long as in turn"
    )
    assert "guidance" not in dict(check_recipe(make_recipe()).lines())
    alone = check_recipe(make_recipe(guidance={"schedule": "sequential", "executor": "worker"}))
    assert dict(alone.lines())["guidance"] == "made 2 times, by a worker process"


@pytest.mark.parametrize(
    ("iterations", "said"), [(None, "with 1 iteration guidance"), (2, "with 2 iterations guidance")]
)
def test_a_run_with_nothing_to_make_meanwhile_is_told_of(
    make_recipe: MakeRecipe, iterations: int | None, said: str
) -> None:
    recipe = make_recipe(guidance={"schedule": "parallel", "iterations": iterations})
    (warning,) = nothing_meanwhile(recipe, steps=200)
    assert said in warning and "set guidance.iterations to 3 or more" in warning
    assert warning in check_recipe(recipe).warnings
    assert nothing_meanwhile(make_recipe(guidance=PARALLEL), steps=200) == []
    assert nothing_meanwhile(make_recipe(guidance={"schedule": "parallel", "iterations": None}), steps=900) == []
    assert nothing_meanwhile(make_recipe(guidance={"iterations": 1}), steps=200) == []


def test_a_worker_needs_memory_and_disk_of_its_own(make_recipe: MakeRecipe) -> None:
    here, there = (check_recipe(make_recipe(guidance={**PARALLEL, "executor": e})) for e in ("in-process", "worker"))
    assert there.memory_gib > here.memory_gib and there.disk_gib > here.disk_gib


def test_only_a_device_of_its_own_saves_time_by_the_plan(make_recipe: MakeRecipe) -> None:
    shared, own = (make_recipe(guidance={**PARALLEL, "worker_device": device}) for device in ("cpu", "cuda:0"))
    assert refreshes(own, 40) == 3 and elsewhere(own) and not elsewhere(shared)
    assert overlapped_seconds(shared, 40, training=40.0, making=15.0) == 0
    assert overlapped_seconds(own, 40, training=40.0, making=15.0) == 2 * 5.0  # the first is waited for
    assert overlapped_seconds(own, 40, training=8.0, making=15.0) == 2 * 2.0  # no more than training lasts


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [("executor=elsewhere", "executor"), ("max_failures=0", "max_failures"), ("refresh_timeout=0", "refresh_timeout")],
)
def test_settings_out_of_range_are_refused(make_recipe: MakeRecipe, setting: str, complaint: str) -> None:
    text = json.dumps(make_recipe().model_dump(mode="json", exclude_none=True))
    with pytest.raises(RecipeError, match=complaint):
        parse_recipe(text, "recipe.yaml", [f"guidance.{setting}"])


def test_a_run_may_go_on_by_another_schedule_and_elsewhere_and_says_so(make_recipe: MakeRecipe) -> None:
    begin(make_recipe())
    other = make_recipe(guidance={"schedule": "parallel", "executor": "in-process", "max_failures": 2})
    check_folder(other, resume=True)
    warnings = check_recipe(other, resume=True).warnings
    assert "the run was begun with guidance.schedule sequential, and goes on with parallel" in warnings
    with pytest.raises(RunFolderError, match="samples"):
        check_folder(make_recipe(guidance={"samples": 9}), resume=True)


def test_a_run_whose_worker_is_killed_comes_to_its_end_and_the_report_shows_it(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dying_oracle.py").write_text(
        "import os, pathlib, signal\n"
        "def score(outputs):\n"
        "    deaths, trainer = pathlib.Path('deaths'), int(pathlib.Path('trainer').read_text())\n"
        "    begun = list(pathlib.Path('run/samples').glob('iteration-0001.jsonl'))\n"
        "    if os.getpid() != trainer and begun and not deaths.exists():\n"
        "        deaths.write_text('1')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [float('e' not in output) for output in outputs]\n"
    )
    (tmp_path / "trainer").write_text(str(os.getpid()))
    monkeypatch.setattr("adhere.guidance.attempts.FIRST_PAUSE", 0.1)
    recipe = make_recipe(
        guidance=PARALLEL,
        training={"max_steps": 12},
        constraints=[{"oracle": {"kind": "callable", "function": "dying_oracle:score", "name": "no e"}}],
    )
    folder = train_recipe(recipe)
    assert (tmp_path / "deaths").exists() and (folder / "model" / "model.safetensors").exists()
    events: list[dict[str, Any]] = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    (failed,) = [event for event in events if event["event"] == "refresh failed"]
    assert failed["iteration"] == 1 and "signal 9" in failed["why"]
    assert not list(folder.glob("snapshots/*")) and json.loads((folder / "training.json").read_text())["steps"] == 12
    assert "1 attempt at a refresh failed." in write_report(folder).read_text(encoding="utf-8")
