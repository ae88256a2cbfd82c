from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adhere.errors import RunFolderError
from adhere.recipe import cells
from adhere.recipe.cells import Cell, finished_cell, run_cell
from adhere.recipe.schema import Recipe
from adhere.records import Measurement

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def cell(make_recipe: MakeRecipe) -> Cell:
    return Cell("sft-0", make_recipe(method="sft"), {"method": "sft", "seed": "0"})


def test_a_cell_is_trained_measured_and_put_away(cell: Cell, tmp_path: Path) -> None:
    told = run_cell(cell, tmp_path / "work")
    folder = cell.folder(tmp_path / "work")
    assert folder.name == f"sft-0.{cell.digest}"
    names = {row["name"] for row in told["rows"]}
    assert names >= {"violation_rate", "judge_violation_rate", "distinct_2", "train_seconds", "trained_tokens"}
    assert all(
        row["method"] == "sft" and row["cell"] == cell.digest and "cores" in row["machine"] for row in told["rows"]
    )
    assert not (folder / "model").exists() and not list(folder.rglob("*.safetensors"))
    assert (folder / "evaluation" / "sft.json").exists()
    assert finished_cell(cell, tmp_path / "work") == told


def test_a_finished_cell_is_read_and_not_run(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run_cell(cell, tmp_path / "work")
    monkeypatch.setattr(cells, "train_recipe", lambda *_, **__: pytest.fail("it was run again"))
    assert run_cell(cell, tmp_path / "work") == told


def test_a_cell_that_was_stopped_goes_on_with_the_part_it_was_in(cell: Cell, tmp_path: Path) -> None:
    def stops(*_: object) -> list[Measurement]:
        raise KeyboardInterrupt

    def measures(*_: object) -> list[Measurement]:
        return [Measurement("extra", 1.0)]

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tmp_path, [stops])
    folder = cell.folder(tmp_path)
    made = (folder / "training.json").stat().st_mtime_ns, (folder / "evaluation" / "sft.json").stat().st_mtime_ns
    assert (folder / "model").exists() and finished_cell(cell, tmp_path) is None
    told = run_cell(cell, tmp_path, [measures])
    assert "extra" in {row["name"] for row in told["rows"]}
    assert made == (
        (folder / "training.json").stat().st_mtime_ns,
        (folder / "evaluation" / "sft.json").stat().st_mtime_ns,
    )


def test_models_are_kept_when_asked_for(cell: Cell, tmp_path: Path) -> None:
    run_cell(cell, tmp_path, keep_models=True)
    assert (cell.folder(tmp_path) / "model" / "model.safetensors").exists()


def test_the_model_before_fine_tuning_is_only_measured(cell: Cell, tmp_path: Path) -> None:
    before = replace(cell, name="before-0", trains=False)
    told = run_cell(before, tmp_path)
    assert "train_seconds" not in {row["name"] for row in told["rows"]}
    assert (before.folder(tmp_path) / "evaluation" / "before.json").exists()
    assert before.digest != cell.digest


def test_the_digest_changes_with_what_decides_the_numbers_and_with_nothing_else(
    make_recipe: MakeRecipe, cell: Cell, corpus: Path, tmp_path: Path
) -> None:
    def digest(**sections: object) -> str:
        return replace(cell, recipe=make_recipe(method="sft", **sections)).digest

    assert digest(output_dir=str(tmp_path / "elsewhere")) == cell.digest
    assert digest(seed=1) != cell.digest
    assert replace(cell, measured_by="limit 3").digest != cell.digest
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(corpus.read_bytes())
    assert digest(corpus={"path": str(copy)}) == cell.digest
    copy.write_text(
        corpus.read_text(encoding="utf-8") + json.dumps({"text": "one more row here"}) + "\n", encoding="utf-8"
    )
    assert digest(corpus={"path": str(copy)}) != cell.digest


def test_a_damaged_cell_is_not_taken_for_an_open_one(cell: Cell, tmp_path: Path) -> None:
    run_cell(cell, tmp_path)
    (cell.folder(tmp_path) / "cell.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged"):
        finished_cell(cell, tmp_path)
