"""Rows of detection, mixed into a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adhere.errors import CorpusError
from adhere.evaluation.detection import question
from adhere.recipe.joint_task import write_detection_rows
from adhere.recipe.run import train_recipe
from adhere.recipe.schema import Recipe


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    rows = [{"text": f"comment {n}", "toxic": int(n < 4)} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_limit_takes_both_labels_evenly(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert write_detection_rows(labelled, out, limit=6) == {"detection": 6}
    assert sorted(str(row["completion"]) for row in _rows(out)) == [" No"] * 3 + [" Yes"] * 3


def test_rows_of_the_corpus_are_cut_as_a_recipe_would_and_the_two_are_mixed(
    labelled: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "joint.jsonl"
    assert write_detection_rows(labelled, out, corpus, prompt_words=2) == {"default": 24, "detection": 20}
    rows = _rows(out)
    assert {"prompt": "a cat", "completion": " is bad now", "domain": "default", "learn_prompt": True} in rows
    assert {"prompt": question("comment 0"), "completion": " Yes", "domain": "detection", "learn_prompt": False} in rows
    domains = [row["domain"] for row in rows]
    assert domains != sorted(domains)
    write_detection_rows(labelled, again := tmp_path / "again.jsonl", corpus, prompt_words=2)
    assert again.read_bytes() == out.read_bytes()


def test_a_recipe_trains_on_what_was_written(
    labelled: Path, corpus: Path, tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    out = tmp_path / "joint.jsonl"
    write_detection_rows(labelled, out, corpus, prompt_words=2)
    recipe = make_recipe(method="sft", corpus={"path": str(out), "max_length": 48}, training={"max_steps": 1})
    assert (train_recipe(recipe) / "model").is_dir()


def test_conversations_are_refused(labelled: Path, tmp_path: Path) -> None:
    chat = tmp_path / "chat.jsonl"
    chat.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="holds conversations"):
        write_detection_rows(labelled, tmp_path / "out.jsonl", chat)
