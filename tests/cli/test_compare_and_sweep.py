"""`adhere compare` and `adhere sweep` on runs of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from adhere.cli.main import app


def _invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def swept(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    result = _invoke(
        *("sweep", tiny_recipe, "--over", "training.weight_decay=0,1", "--baselines", "before", "--output", folder),
        *("--set", "method=sft", "--set", "training.max_steps=2"),
    )
    assert result.exit_code == 0, result.output
    return folder, result


def test_a_sweep_shows_its_points_and_says_where_everything_is(swept: tuple[Path, Result]) -> None:
    folder, result = swept
    assert "3 cells in" in result.stdout
    for told in ("weight_decay = 0", "weight_decay = 1", "before", f"Numbers:  {folder / 'sweep.json'}"):
        assert told in result.stdout
    assert (folder / "sweep.html").stat().st_size > 10_000
    assert len(list(folder.glob("*/cell.json"))) == 3


def test_cells_of_a_sweep_are_compared_side_by_side(swept: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = swept
    cells = sorted(folder.glob("*-0.*"))
    result = _invoke("compare", *cells, "--out", tmp_path / "c.html")
    assert result.exit_code == 0, result.output
    for told in ("Against training.weight_decay=0-0", "before-0", "points", str(tmp_path / "c.html")):
        assert told in result.stdout
    assert (tmp_path / "c.html").exists()


def test_a_comparison_as_json_is_json_and_nothing_else(swept: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = swept
    result = _invoke(
        "compare", *sorted(folder.glob("*-0.*")), "--out", tmp_path / "c.html", "--json", "--reference", "before"
    )
    told = json.loads(result.stdout)
    assert told["reference"] == "before-0"
    assert {row["over"] for row in told["rows"] if row["name"].endswith("_difference")} == {"before-0"}


def test_faults_are_told_in_a_sentence_and_with_exit_code_two(swept: tuple[Path, Result], tiny_recipe: Path) -> None:
    folder, _ = swept
    one = _invoke("compare", next(folder.glob("before-0.*")))
    assert one.exit_code == 2 and "needs two models" in one.stderr
    seeds = _invoke("sweep", tiny_recipe, "--over", "training.weight_decay=0,1", "--seeds", "0,x")
    assert seeds.exit_code == 2 and "--seeds '0,x': give whole numbers" in seeds.stderr
    over = _invoke("sweep", tiny_recipe, "--over", "weight")
    assert over.exit_code == 2 and "write it as section.key=value,value" in over.stderr
