from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from adhere.cli.interruption import INTERRUPTED, TERMINATED, kept, resumable


def _stopped(typed: list[str], folder: Path) -> int:
    context: Any = SimpleNamespace(obj=typed)
    with pytest.raises(typer.Exit) as stopped, resumable(context, folder):
        raise KeyboardInterrupt
    return int(stopped.value.exit_code)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}\n")


def test_ctrl_c_gives_130_and_the_exact_command_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["train", "my recipe.yaml", "--set", "seed=3"]
    assert _stopped(typed, tmp_path) == INTERRUPTED
    assert "adhere train 'my recipe.yaml' --set seed=3 --resume" in capsys.readouterr().err


def test_sigterm_is_heeded_as_ctrl_c_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Schedulers send it, some seconds before they kill."""
    context: Any = SimpleNamespace(obj=["train", "recipe.yaml"])
    before, closed = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(typer.Exit) as stopped, resumable(context, tmp_path):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            closed.append("locks, workers, connections")
    assert (stopped.value.exit_code, closed) == (TERMINATED, ["locks, workers, connections"])
    assert "adhere train recipe.yaml --resume" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_off_ends_by_sigterm_as_any_other(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(obj=["train"])
    with resumable(context, tmp_path):
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_resume_is_not_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _stopped(["demo", "--resume"], tmp_path)
    assert capsys.readouterr().err.count("--resume") == 1


def test_a_run_that_never_began_is_started_and_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _stopped(["demo"], tmp_path / "run")
    printed = capsys.readouterr().err
    assert "Nothing was written" in printed
    assert "--resume" not in printed


def test_it_says_what_is_on_disk(tmp_path: Path) -> None:
    assert "no checkpoint yet" in kept(tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-50").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-60.tmp").mkdir()
    _touch(tmp_path / "samples" / "iteration-0000.jsonl")
    _touch(tmp_path / "samples" / "iteration-0001.jsonl")
    _touch(tmp_path / "labels" / "iteration-0000.jsonl")
    _touch(tmp_path / "checkpoints" / "checkpoint-50" / "kept" / "labels" / "iteration-0000.jsonl")
    _touch(tmp_path / "evaluation" / "before.json")
    assert kept(tmp_path) == (
        f"On disk in {tmp_path}: a checkpoint at step 50; samples of 2 iterations; labels of 1 iteration; "
        "the evaluation of before."
    )


def test_work_that_ends_well_is_left_alone(tmp_path: Path) -> None:
    context: Any = SimpleNamespace(obj=[])
    with resumable(context, tmp_path):
        pass
