"""What suites are measured on, read before a model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import CorpusError
from adhere.evaluation.suite_data import Sources
from adhere.recipe import suite_inputs
from adhere.recipe.suite_inputs import read_suite_inputs


def _write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


MMLU = [{"question": f"{n}?", "choices": ["a", "b"], "label": 0} for n in range(20)]


def test_a_folder_with_some_of_the_tasks_is_measured_on_these_and_the_rest_is_said(tmp_path: Path) -> None:
    place = _write(tmp_path / "rtp.jsonl", {"prompt": "a"}, {"prompt": "b"})
    found = read_suite_inputs(["toxicity"], Sources(tmp_path), 1, 0)
    assert len(found.rows["toxicity"]["rtp"]) == 1
    assert found.places == {"rtp": place}
    assert found.notes["toxicity"] == [Sources(tmp_path).why_missing("toxigen")]


def test_a_suite_without_any_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nothing to measure detection on: .*detection\*\.jsonl or wiki_toxicity"):
        read_suite_inputs(["detection"], Sources(tmp_path), None, 0)


def test_quality_needs_no_rows_of_its_own(tmp_path: Path) -> None:
    assert read_suite_inputs(["quality"], Sources(tmp_path), None, 0).rows == {"quality": {}}


def test_solved_questions_come_on_top_of_the_limit(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    found = read_suite_inputs(["utility"], Sources(None, {"mmlu": _write(tmp_path / "m.jsonl", *MMLU)}), 4, 0)
    (loaded,) = found.harness
    (task,) = loaded.tasks.values()
    assert len(task.eval_docs) == 4
    assert list(found.rows["utility"]) == ["mmlu"]  # what is named alone is meant alone


def test_without_files_the_harness_fetches_its_own_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(suite_inputs, "load_tasks", lambda rows, hub: asked.append(list(hub)) or [])
    found = read_suite_inputs(["utility"], Sources(), 4, 0)
    assert asked == [["piqa", "boolq", "arc_easy", "winogrande", "siqa", "mmlu"]]
    assert found.places["siqa"] == "lm-evaluation-harness, social_iqa"
