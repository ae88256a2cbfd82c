"""Every command after the other on a run of a tiny model, and a run stopped with Ctrl-C."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from adhere.cli.main import app


def _invoke(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in a process of its own, where nothing heavy was imported before the command could quieten it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    words = [sys.executable, "-m", "adhere", "train", str(tiny_recipe), "--output", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "18 rows to learn from" in done.stdout
    assert str(folder / "model") in done.stdout
    assert "'loss'" not in done.stdout + done.stderr  # the Trainer prints no dictionaries of its own
    assert "constrained fine-tuning 0/4" in done.stderr
    for line in done.stderr.splitlines():  # no bar and no warning of any library
        assert re.match(r"\[\d+:\d\d\] ", line), done.stderr
    return folder


def test_the_model_stands_where_train_says(run: Path) -> None:
    assert (run / "model" / "model.safetensors").exists()


def test_a_trained_run_is_evaluated_beside_the_model_it_began_with(run: Path) -> None:
    _invoke("evaluate", run, "--model", "before")
    shown = _invoke("evaluate", run, "--samples-per-prompt", "2").stdout
    assert "before" in shown
    assert "violations, second judge" in shown
    assert json.loads((run / "evaluation" / "constrained.json").read_text())["rows"]


def test_a_report_is_written(run: Path) -> None:
    assert "report.html" in _invoke("report", run).stdout.replace("\n", "")
    assert (run / "report.html").stat().st_size > 10_000


def test_samples_are_drawn_and_labelled(run: Path, tmp_path: Path) -> None:
    samples, labels = tmp_path / "s.jsonl", tmp_path / "l.jsonl"
    _invoke("sample", run, "--prompt", "a cat", "--prompt", "a dog", "-n", "2", "--guided", "--out", samples)
    _invoke("label", samples, "--oracle", "{kind: words, words: [bad]}", "--out", labels)
    rows = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["a cat", "a cat", "a dog", "a dog"]
    assert {row["score"] for row in rows} == {1.0}


def test_a_model_without_a_run_is_sampled_too(tiny_recipe: Path) -> None:
    shown = _invoke("sample", tiny_recipe.parent / "tiny", "--prompt", "a cat", "--max-new-tokens", "3").stdout
    assert shown.startswith("a cat\n")


def test_the_doctor_finds_nothing_and_then_what_was_damaged(run: Path, tmp_path: Path) -> None:
    assert "Nothing is damaged." in _invoke("doctor", run).stdout
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "recipe.yaml").write_text("model: [", encoding="utf-8")
    result = CliRunner().invoke(app, ["doctor", str(broken)])
    assert result.exit_code == 1


def test_a_folder_that_holds_a_run_is_refused_with_advice(run: Path, tiny_recipe: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(tiny_recipe), "--output", str(run)])
    assert result.exit_code == 2
    assert "--resume" in result.stderr


def test_a_run_stopped_with_ctrl_c_says_what_it_kept_and_what_to_type(tiny_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [
        "--set",
        "training.max_steps=100000",
        "--set",
        "training.save_steps=5",
        "--set",
        "guidance.iterations=1",
    ]
    words = ["train", str(tiny_recipe), "--output", str(folder), *settings]
    training = subprocess.Popen(
        [sys.executable, "-m", "adhere", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 90
        while not list(folder.glob("checkpoint-*/trainer_state.json")):
            assert training.poll() is None, training.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        training.send_signal(signal.SIGINT)
        _, told = training.communicate(timeout=60)
    finally:
        training.kill()
    assert training.returncode == 130, told
    assert "Traceback" not in told
    assert f"On disk in {folder}: a checkpoint at step " in told
    resume = next(line for line in told.splitlines() if line.startswith("Go on with:")).partition(":")[2]
    assert shlex.split(resume) == ["adhere", *words, "--resume"]
    assert "checkpoint" in _invoke("doctor", folder).stdout
