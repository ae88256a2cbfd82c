"""The benchmark that tunes the methods of the paper's table: which cells it makes, and its table; numbers invented here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tuning(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("paper_tuning")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in ("corpus.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": f"a row of {name}"}) + "\n", encoding="utf-8")
    return tmp_path


def test_every_method_is_tuned_by_valid_recipes_one_of_which_is_the_tables(tuning: ModuleType, work: Path):
    for choice in tuning.CHOICES:
        cells = tuning.cells_of(choice, work)
        assert len({cell.digest for cell in cells}) == len(choice.values) >= 3
        assert [cell.tags["in_table"] for cell in cells].count("True") == 1, choice.method
        assert {cell.tags["method"] for cell in cells} == {choice.method}


def test_the_table_marks_the_setting_of_the_papers_table(tuning: ModuleType, tmp_path: Path):
    def row(setting: str, name: str, value: float, in_table: bool) -> dict[str, Any]:
        tags = {"method": "dpo", "setting": setting, "in_table": str(in_table), "machine": "a CPU, 2 cores"}
        return {"name": name, "value": value, **tags}

    rows = [row("learning rate 1e-05", "violation_rate", 0.21, False)]
    rows += [row("learning rate 3e-05", "violation_rate", 0.125, True)]
    text = tuning.table({"rows": rows, "date": "2026-01-02T10:00"}, Path("results.json"))
    assert "| dpo | learning rate 1e-05 | 21.0% | – |" in text
    assert "| dpo | learning rate 3e-05 (the table's) | 12.5% |" in text
    assert "a CPU, 2 cores, 2026-01-02" in text


def test_a_table_is_not_tuned_without_data(tuning: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit, match="--data FOLDER"):
        tuning.main(["--work", str(tmp_path / "w"), "--results", str(tmp_path)])
    assert not (tmp_path / "w").exists()
