"""0 done, 1 a check failed, 2 the user must change something, 130 Ctrl-C; a traceback for a defect of ours alone."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adhere.cli.main import app
from adhere.errors import RecipeError

DEFECT = """
import adhere.recipe.load
def broken(*_): raise ZeroDivisionError("ours")
adhere.recipe.load.load_recipe = broken
from adhere.cli.main import app
app(["check", "recipe.yaml"])
"""


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=60)


def _raise(error: BaseException) -> Any:
    def instead(*_: object, **__: object) -> None:
        raise error

    return instead


def test_an_error_of_the_user_is_its_message_alone_and_2(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    done = _run("-m", "adhere", "check", str(missing))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"{missing}: no such recipe (working folder: {Path.cwd()})\n"


def test_a_defect_of_ours_shows_its_traceback() -> None:
    done = _run("-c", DEFECT)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "ZeroDivisionError: ours" in done.stderr


def test_a_message_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adhere.recipe.load.load_recipe", _raise(RecipeError("row 3:\x1b[2J [bold]x[/bold]\ntwo")))
    result = CliRunner().invoke(app, ["check", "recipe.yaml"])
    assert result.exit_code == 2
    assert result.stderr == "row 3:\\x1b[2J [bold]x[/bold]\ntwo\n"


@pytest.mark.parametrize("words", [["trian"], ["train"], ["demo", "--seed", "-1"], ["check", "a.yaml", "--sets", "b"]])
def test_a_command_line_that_cannot_be_read_is_2(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_ctrl_c_says_what_is_kept_and_the_command_to_resume(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my run"

    def stopped(recipe: Any, **_: object) -> None:
        (recipe.output_dir / "checkpoint-20").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("adhere.cli.train.planned", lambda *_, **__: _NoPlan())
    monkeypatch.setattr("adhere.recipe.run.train_recipe", stopped)
    words = ["train", str(tiny_recipe), "--output", str(folder)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert f"On disk in {folder}: a checkpoint at step 20." in result.stderr
    assert f"adhere train {tiny_recipe} --output '{folder}' --resume" in result.stderr
    assert "Traceback" not in result.output


def test_ctrl_c_while_sampling_says_that_nothing_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adhere.recipe.run.sample_run", _raise(KeyboardInterrupt()))
    result = CliRunner().invoke(app, ["sample", "some/model", "--prompt", "a b", "--out", "o.jsonl"])
    assert result.exit_code == 130
    assert "Nothing was written to o.jsonl." in result.stderr
    assert "adhere sample some/model --prompt 'a b' --out o.jsonl\n" in result.stderr


def test_our_own_warnings_are_seen_and_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def warns(*_: object) -> None:
        logging.getLogger("adhere.data.corpus").warning("left out %d rows of %s", 3, "\x1b[2J")
        raise RecipeError("and no")

    monkeypatch.setattr("adhere.recipe.load.load_recipe", warns)
    result = CliRunner().invoke(app, ["check", "recipe.yaml"])
    assert result.stderr == "warning: left out 3 rows of \\x1b[2J\nand no\n"


class _NoPlan:
    def lines(self) -> list[tuple[str, str]]:
        return [("method", "constrained")]
