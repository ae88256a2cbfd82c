"""What each command hands on and shows; what it calls is replaced here, and runs for real in test_end_to_end.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from adhere.cli.main import app
from adhere.recipe.finding import Finding
from adhere.recipe.label import Labelled
from adhere.records import EvaluationResult, Measurement, Sample

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


def _invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "100"})


def _stub(monkeypatch: pytest.MonkeyPatch, place: str, answer: Any) -> Calls:
    calls: Calls = []

    def instead(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return answer

    monkeypatch.setattr(f"adhere.recipe.{place}", instead)
    return calls


def _sample(prompt: str, output: str, finished: bool = True) -> Sample:
    return Sample(0, 0, prompt, output, (1,), (2,), finished, -1.0)


class Planned:
    def lines(self) -> list[tuple[str, str]]:
        return [("method", "constrained"), ("warning", "[bold]no second judge[/bold]")]


# ---- check and train


def test_check_shows_the_plan_and_the_command_that_runs_it(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path) -> None:
    calls = _stub(monkeypatch, "run.check_recipe", Planned())
    result = _invoke("check", tiny_recipe, "--set", "seed=3", "--set", "training.max_steps=9")
    assert result.exit_code == 0, result.output
    ((recipe,), _) = calls[0]
    assert (recipe.seed, recipe.training.max_steps) == (3, 9)
    assert "method   constrained" in result.stdout
    assert "[bold]no second judge[/bold]" in result.stdout
    assert f"adhere train {tiny_recipe} --set seed=3 --set training.max_steps=9" in result.stdout


def test_train_shows_the_plan_before_it_trains(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path) -> None:
    checked = _stub(monkeypatch, "run.check_recipe", Planned())
    trained = _stub(monkeypatch, "run.train_recipe", Path("runs/my run"))
    result = _invoke(
        "train", tiny_recipe, "--method", "sft", "--output", 'a "b": c', "--set", "method=constrained", "--resume"
    )
    assert result.exit_code == 0, result.output
    ((recipe,), options) = trained[0]
    assert (recipe.method, recipe.output_dir) == ("sft", Path('a "b": c'))
    assert options["resume"] is True
    assert checked[0] == ((recipe,), {"resume": True})
    assert "method   constrained" in result.stdout
    assert "adhere evaluate 'runs/my run'" in result.stdout


def test_a_method_that_does_not_exist_is_refused(tiny_recipe: Path) -> None:
    result = _invoke("train", tiny_recipe, "--method", "magic")
    assert result.exit_code == 2
    assert "constrained" in result.stderr


# ---- sample and label


def test_samples_of_any_text_are_shown_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "[bold]x[/bold] \x1b[2J [/red] \u202e:smile:"
    _stub(monkeypatch, "run.sample_run", [_sample(hostile, hostile), _sample("cut", "off", finished=False)])
    result = _invoke("sample", "some/model", "--prompt", "a")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert result.stdout.count(r"[bold]x[/bold] \x1b[2J [/red] \u202e:smile:") == 2
    assert "off …" in result.stdout


def test_sample_hands_on_prompts_and_leaves_the_rest_to_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = _stub(monkeypatch, "run.sample_run", [])
    assert _invoke("sample", "some/model", "--prompt", "a", "--prompt", "b", "-n", "3", "--guided").exit_code == 0
    assert _invoke("sample", "some/model", "--prompts", tmp_path / "p.txt", "--base", "--seed", "7").exit_code == 0
    (first, _), (second, options) = calls
    assert first == ("some/model", ["a", "b"], 3, None, True, 0, None)
    assert second == ("some/model", tmp_path / "p.txt", 1, None, False, 7, None)
    assert options["base"] is True


def test_sample_changes_the_runs_own_sampling(
    monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_bytes(tiny_recipe.read_bytes())
    calls = _stub(monkeypatch, "run.sample_run", [])
    assert _invoke("sample", tmp_path, "--prompt", "a", "--temperature", "0.5", "--top-k", "4").exit_code == 0
    sampling = calls[0][0][-1]
    assert (sampling.max_new_tokens, sampling.batch_size) == (8, 8)  # the recipe's
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 4, 1.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--prompts FILE or as --prompt TEXT"),
        (["--prompts", "f", "--prompt", "t"], "--prompts FILE or as --prompt TEXT"),
        (["--prompt", "a", "--temperature", "0"], "--temperature: input should be greater than 0, got 0.0"),
        (["--prompt", "a", "--top-p", "1.5"], "--top-p: input should be less than or equal to 1, got 1.5"),
        (["--prompt", "a", "--max-new-tokens", "0"], "--max-new-tokens: input should be greater than or equal to 1"),
    ],
)
def test_sample_refuses_what_cannot_be(words: list[str], said: str) -> None:
    result = _invoke("sample", "some/model", *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_label_tells_how_many_violate_and_how_many_got_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _stub(monkeypatch, "label.label_file", Labelled(rows=5, judged=4, violations=2))
    result = _invoke("label", "s.jsonl", "--oracle", "{kind: length, maximum: 3}", "--out", "l.jsonl")
    assert result.exit_code == 0, result.output
    assert calls[0][0][1].maximum == 3
    assert "2 of 4 outputs violate: 50.0 % (95 % interval 15.0" in result.stdout
    assert "1 got no verdict" in result.stdout


def test_label_without_any_verdict_divides_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _stub(monkeypatch, "label.label_file", Labelled(rows=2, trouble="o, asked at h: 2 × 500"))
    result = _invoke("label", "s.jsonl", "--oracle", "embedded", "--out", "l.jsonl")
    assert result.exit_code == 1, result.output
    assert "No output got a verdict, of 2." in result.stdout
    assert "Why verdicts were missing: o, asked at h: 2 × 500" in result.stderr


# ---- results


def _row(name: str, value: float, model: str, **more: object) -> dict[str, object]:
    return {"name": name, "value": value, "low": value * 0.8, "high": value * 1.2, "n": 400, "model": model, **more}


def _finished(folder: Path) -> Path:
    rows = [
        _row("violation_rate", rate, model) for model, rate in (("before", 0.06), ("sft", 0.69), ("constrained", 0.12))
    ]
    rows.append(_row("violation_rate_ratio", 0.174, "constrained", over="sft"))
    rows.append({"name": "train_seconds", "value": 171.0, "model": "sft"})
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return folder


def test_the_demo_ends_with_the_comparison_and_where_things_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = _finished(tmp_path / "demo")
    calls = _stub(monkeypatch, "demo.demo", folder)
    result = _invoke("demo", "--output", folder, "--quick", "--seed", "5")
    assert result.exit_code == 0, result.output
    ((output,), options) = calls[0]
    assert (output, options["quick"], options["resume"], options["seed"]) == (folder, True, False, 5)
    for shown in ("before", "plain", "÷ plain", "6.0 %", "69.0 %", "12.0 %", "0.174 ×", "2 min 51 s"):
        assert shown in result.stdout
    assert "the numbers say nothing else" in result.stdout
    assert "55.2" in result.stdout  # the lower end of plain fine-tuning's interval
    unbroken = result.stdout.replace("\n", "")
    assert str(folder / "report.html") in unbroken
    assert str(folder / "summary.json") in unbroken


def test_evaluate_shows_what_it_measured_and_not_what_the_summary_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = _finished(tmp_path / "run")
    fresh = EvaluationResult("constrained", (Measurement("violation_rate", 0.33, 0.3, 0.36, 400),))
    calls = _stub(monkeypatch, "run.evaluate_run", fresh)
    result = _invoke(
        "evaluate", folder, "--judge", "jigsaw", "--judge", "{kind: json}", "--model", "before", "--prompts", "9"
    )
    assert result.exit_code == 0, result.output
    ((run,), options) = calls[0]
    assert (run, options["model_path"], options["prompts"], options["name"]) == (folder, "before", 9, None)
    assert [judge.kind for judge in options["judges"]] == ["jigsaw", "json"]
    assert "33.0 %" in result.stdout
    assert "12.0 %" not in result.stdout
    assert "0.174" not in result.stdout  # a ratio of the old numbers


def test_evaluate_leaves_the_judges_to_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = _stub(monkeypatch, "run.evaluate_run", EvaluationResult("sft", ()))
    assert _invoke("evaluate", _finished(tmp_path / "run")).exit_code == 0
    assert calls[0][1]["judges"] is None


def test_report_opens_the_page_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, opened = _finished(tmp_path / "run"), list[str]()
    monkeypatch.setattr("typer.launch", opened.append)
    assert _invoke("report", folder).exit_code == 0
    assert opened == []
    assert _invoke("report", folder, "--open").exit_code == 0
    assert opened == [(folder / "report.html").resolve().as_uri()]
    assert (folder / "report.html").exists()


# ---- doctor


@pytest.mark.parametrize(("severity", "code"), [("ok", 0), ("warning", 0), ("damaged", 1)])
def test_doctor_fails_when_something_is_damaged(monkeypatch: pytest.MonkeyPatch, severity: Any, code: int) -> None:
    findings = [Finding("ok", "manifest.json"), Finding(severity, "[b]model/\x1b[2J", "delete it")]
    _stub(monkeypatch, "run.doctor", findings)
    result = _invoke("doctor", "runs/x")
    assert result.exit_code == code
    assert r"[b]model/\x1b[2J" in result.stdout
    assert "delete it" in result.stdout
    assert ("1 damaged." if code else "Nothing is damaged.") in result.stdout


def test_a_repair_says_what_it_did_and_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [[Finding("damaged", "model/ is gone", "repair it")], [Finding("ok", "recipe.yaml")]]
    monkeypatch.setattr("adhere.recipe.run.doctor", lambda _: looked.pop(0))
    _stub(monkeypatch, "run.repair", ["model was moved to damaged/now/"])
    result = _invoke("doctor", "runs/x", "--repair")
    assert result.exit_code == 0
    assert "model was moved to damaged/now/" in result.stdout
    assert "adhere train runs/x/recipe.yaml --resume" in result.stdout


def test_what_cannot_be_repaired_is_said_again_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    _stub(monkeypatch, "run.doctor", [Finding("damaged", "the recipe is gone", "put it back")])
    _stub(monkeypatch, "run.repair", [])
    result = _invoke("doctor", "runs/x", "--repair")
    assert result.exit_code == 1
    assert "cannot mend" in result.stdout and result.stdout.count("put it back") == 2
