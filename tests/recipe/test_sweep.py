from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adhere.errors import ModelError, RecipeError
from adhere.recipe import sweep as module
from adhere.recipe.cells import Cell
from adhere.recipe.load import dump_recipe
from adhere.recipe.schema import Recipe
from adhere.recipe.sweep import parse_over, plan_sweep, run_sweep

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe_file(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    (tmp_path / "clean.txt").write_text("a clean text\nand another one\n", encoding="utf-8")
    path.write_text(dump_recipe(make_recipe(evaluation={"clean_texts": str(tmp_path / "clean.txt")})), encoding="utf-8")
    return path


def test_a_cell_for_every_value_and_baseline_of_every_seed(recipe_file: Path) -> None:
    planned = plan_sweep(recipe_file, "constraints.0.weight=0.5,2", [0, 1], ["before", "sft"])
    assert [cell.name for cell in planned.cells] == [
        *("constraints.0.weight=0.5-0", "constraints.0.weight=2-0", "before-0", "sft-0"),
        *("constraints.0.weight=0.5-1", "constraints.0.weight=2-1", "before-1", "sft-1"),
    ]
    assert [cell.recipe.constraints[0].weight for cell in planned.cells[:2]] == [0.5, 2.0]
    assert [cell.trains for cell in planned.cells[2:4]] == [False, True]
    assert planned.cells[3].recipe.method == "sft" and planned.cells[5].recipe.seed == 1
    assert planned.folder.name == "run-sweep"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("constraints.0.weight", "write it as section.key=value,value"),
        ("constraints.0.weight=", "write it as section.key=value,value"),
        ("seed=1,2", "use --seeds"),
        ("constraints.0.weight=1,-2", "must be at least 0, got -2"),
        ("constraints.0.wieght=1", "did you mean weight"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(recipe_file: Path, over: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        plan_sweep(recipe_file, over)


def test_an_unknown_baseline_is_refused_with_the_known_ones(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="no method 'ppo'; methods are before, constrained, sft"):
        plan_sweep(recipe_file, "constraints.0.weight=1", baselines=["ppo"])


def test_values_are_taken_once_each() -> None:
    assert parse_over("a.b = 1, 2,1") == ("a.b", ["1", "2"])


def test_a_sweep_writes_results_and_page_and_does_nothing_twice(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_sweep(recipe_file, "training.weight_decay=0.5,2", baselines=["before"], settings=["method=sft"])
    page = run_sweep(planned)
    told = json.loads((planned.folder / "sweep.json").read_text(encoding="utf-8"))
    assert told["cells"] == {"finished": 3, "all": 3} and told["seeds"] == [0]
    assert {(row["model"], row.get("at")) for row in told["rows"]} == {
        ("weight_decay = 0.5", "0.5"), ("weight_decay = 2", "2"), ("before", None),
    }  # fmt: skip
    assert all("machine" in row for row in told["rows"])
    assert "weight_decay = 0.5" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(module, "run_cell", lambda *_, **__: pytest.fail("it was run again"))
    assert run_sweep(planned) == page


def test_a_cell_that_cannot_be_run_does_not_keep_the_others(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_sweep(recipe_file, "constraints.0.weight=0.5,2", baselines=["sft"])
    run: list[str] = []

    def fails_at_two(cell: Cell, *_: Any, **__: Any) -> None:
        run.append(cell.name)
        if "=2" in cell.name:
            raise ModelError("it diverged")

    monkeypatch.setattr(module, "run_cell", fails_at_two)
    monkeypatch.setattr(module, "check_recipe", lambda *_, **__: None)
    with pytest.raises(ModelError, match=r"1 of 3 cells could not be finished.*\n.*weight=2-0: it diverged"):
        run_sweep(planned)
    assert len(run) == 3


def test_a_recipe_that_cannot_be_run_is_refused_before_the_first_cell(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    told["model"]["path"] = str(recipe_file.parent / "nothing")
    recipe_file.write_text(yaml.safe_dump(told), encoding="utf-8")
    monkeypatch.setattr(module, "run_cell", lambda *_, **__: pytest.fail("it was begun"))
    with pytest.raises(ModelError, match="nothing"):
        run_sweep(plan_sweep(recipe_file, "constraints.0.weight=1,2"))
