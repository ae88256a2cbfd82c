"""`adhere joint`"""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from adhere.cli.main import app


def test_rows_are_written_and_counted(tmp_path: Path) -> None:
    labelled, corpus, out = tmp_path / "l.jsonl", tmp_path / "c.jsonl", tmp_path / "o.jsonl"
    labelled.write_text('{"text": "a", "toxic": 1}\n{"text": "b", "toxic": 0}\n', encoding="utf-8")
    corpus.write_text('{"text": "one two three four five"}\n', encoding="utf-8")
    words = ["joint", str(labelled), "--out", str(out), "--corpus", str(corpus), "--prompt-words", "2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "3 rows (1 of default, 2 of detection)" in result.stdout
    prompts = [json.loads(line)["prompt"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert "one two" in prompts


def test_a_file_without_labels_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["joint", str(tmp_path / "l.jsonl"), "--out", str(tmp_path / "o.jsonl")])
    assert result.exit_code == 2
    assert "no column toxic or label or toxicity" in result.stderr
    assert not (tmp_path / "o.jsonl").exists()
