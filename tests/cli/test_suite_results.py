"""`adhere evaluate --suite`: what it hands on, refuses and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from adhere.cli.main import app
from adhere.evaluation.suite_files import SuiteResult, write_suite
from adhere.records import Measurement

TAGS = {"task": "xstest", "referee": "phrase rule"}


def _invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "100"})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, dict[str, Any]]]:
    """What `evaluate_suites` is called with; it has measured two suites."""
    found: list[tuple[Any, dict[str, Any]]] = []

    def instead(*args: Any, **settings: Any) -> list[SuiteResult]:
        found.append((args, settings))
        groups = [Measurement("violation_rate", 0.5, n=2, tags={"task": "toxigen", "group": f"g{n}"}) for n in range(7)]
        rate = Measurement("refusal_rate", 0.25, 0.1, 0.4, 20, tags={**TAGS, "group": "safe", "no_verdict": "2"})
        results = [
            SuiteResult("sft", "bias", (rate,), ("\x1b[2J[bold]read this[/bold]",)),
            SuiteResult("sft", "toxicity", tuple(groups)),
        ]
        for result in results:
            write_suite(tmp_path, result)
        return results

    monkeypatch.setattr("adhere.recipe.run.evaluate_suites", instead)
    return found


def test_suites_are_measured_as_asked_and_shown_with_their_notes(
    calls: list[tuple[Any, dict[str, Any]]], tmp_path: Path
) -> None:
    result = _invoke(
        "evaluate", tmp_path, "--suite", "bias,toxicity", "--data", "data", "--data", "rtp=x.jsonl", "--limit", "20",
        "--referee", "some/model", "--against", "other", "--judge", "embedded", "--model", "before",
        "--samples-per-prompt", "3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ((run, suites), settings) = calls[0]
    assert (run, suites) == (tmp_path, "bias,toxicity")
    assert (settings["data"], settings["limit"]) == (["data", "rtp=x.jsonl"], 20)
    assert (settings["referees"], settings["against"]) == (["some/model"], "other")
    assert (settings["model_path"], settings["samples_per_prompt"], settings["name"]) == ("before", 3, None)
    assert [judge.kind for judge in settings["judges"]] == ["embedded"]
    assert "25.0 % 10.0 to 40.0; 2 without a verdict" in result.stdout
    assert r"\x1b[2J[bold]read this[/bold]" in result.stdout
    assert "By group, 7 more rows: in the report" in result.stdout
    assert str(tmp_path / "evaluation" / "bias" / "sft.json") in result.stdout.replace("\n", "")


def test_the_report_command_shows_suites_too(calls: list[tuple[Any, dict[str, Any]]], tmp_path: Path) -> None:
    assert _invoke("evaluate", tmp_path, "--suite", "bias").exit_code == 0
    shown = _invoke("report", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "Suite bias" in shown.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "3"], "belong to suites: name them with --suite"),
        (["--data", "x"], "belong to suites"),
        (["--suite", "bias", "--prompts", "3"], "--limit says how many"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    result = _invoke("evaluate", tmp_path, *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_unknown_suite_is_a_message_and_no_traceback(tmp_path: Path) -> None:
    result = _invoke("evaluate", tmp_path, "--suite", "biass")
    assert result.exit_code == 2
    assert "there is no suite 'biass'; did you mean bias?" in result.stderr
    assert "Traceback" not in result.output


def test_ctrl_c_tells_which_suites_are_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        write_suite(tmp_path, SuiteResult("sft", "bias", ()))
        raise KeyboardInterrupt

    monkeypatch.setattr("adhere.recipe.run.evaluate_suites", stopped)
    result = _invoke("evaluate", tmp_path, "--suite", "bias,toxicity")
    assert result.exit_code == 130
    assert "the suites bias of sft" in result.stderr
