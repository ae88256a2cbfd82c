"""The demo's course on a tiny model: three models measured side by side, and every part done once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import RunFolderError
from adhere.evaluation.evaluation_files import read_evaluation
from adhere.recipe.comparison import compared
from adhere.recipe.demo import compare_methods
from adhere.recipe.schema import Recipe
from adhere.records import EvaluationResult, LabelledSample, Measurement, Sample, Verdict

MakeRecipe = Callable[..., Recipe]


class Stop(BaseException):
    pass


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tmp_path: Path) -> Recipe:
    clean = tmp_path / "clean.txt"
    clean.write_text("a clean text\nand another one\n", encoding="utf-8")
    return make_recipe(evaluation={"clean_texts": str(clean)})


def _summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_three_models_are_measured_and_reported_on(recipe: Recipe) -> None:
    folder = compare_methods(recipe, "demo")
    summary = _summary(folder)
    assert summary["benchmark"] == "demo"
    assert summary["seeds"] == [0]
    assert set(summary) >= {"command", "date", "machine", "versions", "rows"}
    by_model: dict[str, set[str]] = {}
    for row in summary["rows"]:
        by_model.setdefault(row["model"], set()).add(row["name"])
        assert set(row) >= {"name", "value", "low", "high", "n", "unit"}
    measured = {"violation_rate", "judge_violation_rate", "clean_perplexity", "corpus_perplexity", "distinct_2"}
    assert set(by_model) == {"before", "sft", "constrained"}
    assert all(names >= measured for names in by_model.values())
    assert by_model["sft"] >= {"train_seconds"} <= by_model["constrained"]
    assert {"clean_perplexity_ratio", "corpus_perplexity_ratio"} <= by_model["constrained"]
    tokens = json.loads((folder / "evaluation" / "tokens.json").read_text(encoding="utf-8"))
    assert {line["model"] for line in tokens} == {"sft", "constrained"}
    assert all(len(line["tokens"]) == len(line["satisfaction"]) > 0 for line in tokens)
    assert (folder / "report.html").stat().st_size > 1000
    assert not [path.name for path in folder.rglob("checkpoint-*")]
    assert not (folder / "run.lock").exists()


def test_all_models_are_asked_the_same_held_out_prompts(recipe: Recipe) -> None:
    folder = compare_methods(recipe, "demo")
    asked = [
        [labelled.sample.prompt for labelled in read_evaluation(folder, model).completions]
        for model in ("before", "sft", "constrained")
    ]
    assert asked[0] == asked[1] == asked[2]


def test_a_stopped_demo_goes_on_with_the_part_it_was_in(recipe: Recipe) -> None:
    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "constrained fine-tuning" and done == 3:
            raise Stop

    with pytest.raises(Stop):
        compare_methods(recipe, "demo", progress=stop)
    with pytest.raises(RunFolderError, match="--resume"):
        compare_methods(recipe, "demo")
    told: list[tuple[str, int]] = []
    folder = compare_methods(
        recipe, "demo", resume=True, progress=lambda s, done, total, note="": told.append((s, done))
    )
    stages = {stage for stage, _ in told}
    assert told[0] == ("constrained fine-tuning", 2)
    assert "sampling constrained" in stages
    assert not stages & {"plain fine-tuning", "sampling before", "sampling sft"}
    assert set(_summary(folder)["seconds"]) == {"evaluating before", "evaluating sft", "evaluating constrained"}
    compare_methods(recipe, "demo", resume=True)  # all parts are there: nothing but the report is made again


def _result(model: str, scores: list[float], nats: float) -> EvaluationResult:
    samples = [Sample(i, 0, "p", "o", (1,), (2,), True, -1.0) for i in range(len(scores))]
    completions = tuple(
        LabelledSample(s, {"rule": Verdict(score), "second": Verdict(1 - score)})
        for s, score in zip(samples, scores, strict=True)
    )
    judged = Measurement("judge_violation_rate", 0.5, tags={"judge": "second"})
    return EvaluationResult(
        model, (judged, Measurement("distinct_2", 0.5 if model == "sft" else 0.6, n=4)), completions,
        {"clean_perplexity": ((nats, 2), (nats, 2))},
    )  # fmt: skip


def test_ratios_are_of_the_first_over_the_second() -> None:
    ours, plain = _result("constrained", [1.0, 1.0, 1.0, 0.0], 2.0), _result("sft", [0.0, 0.0, 1.0, 0.0], 1.0)
    rows = {row["name"]: row for row in compared(ours, plain)}
    assert rows["violation_rate_ratio"]["value"] == pytest.approx(1 / 3)
    assert rows["judge_violation_rate_ratio"]["value"] == pytest.approx(3.0)
    assert rows["judge_violation_rate_ratio"]["judge"] == "second"
    assert rows["clean_perplexity_ratio"]["value"] == pytest.approx(2.718281828**0.5)
    assert rows["distinct_2_ratio"]["value"] == pytest.approx(1.2)
    assert all((row["model"], row["over"]) == ("constrained", "sft") for row in rows.values())
