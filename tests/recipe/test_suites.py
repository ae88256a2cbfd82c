"""Suites on a run of a few seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import CorpusError, ModelError, OracleError, RecipeError, RunFolderError
from adhere.evaluation.suite_files import read_suite, suite_path
from adhere.oracles.config import LengthConfig
from adhere.recipe import suites
from adhere.recipe.folder import MODEL, RECIPE
from adhere.recipe.load import dump_recipe
from adhere.recipe.run import evaluate_suites
from adhere.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(make_recipe: MakeRecipe) -> Path:
    """A run folder as training leaves it, with the model that it began with."""
    recipe = make_recipe(method="sft")
    recipe.output_dir.mkdir()
    (recipe.output_dir / RECIPE).write_text(dump_recipe(recipe), encoding="utf-8")
    shutil.copytree(recipe.model.path, recipe.output_dir / MODEL)
    return recipe.output_dir


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    question = {"question": "Is a cat a dog?", "choices": ["no", "yes"], "label": 0}
    rows: dict[str, list[dict[str, Any]]] = {
        "rtp": [{"prompt": f"a cat {n}"} for n in range(5)],
        "toxigen": [{"prompt": f"- a {group}\n-", "group": group} for group in ("cat", "dog") * 3],
        "mc_piqa": [question] * 4,
        "wiki_toxicity": [{"text": f"cat {n}", "text_identity_swapped": f"dog {n}", "toxic": n % 2} for n in range(6)],
        "xstest": [{"prompt": f"May I {n}?", "label": "safe" if n % 2 else "unsafe"} for n in range(6)],
    }
    for name, of_task in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in of_task)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_every_suite_is_measured_and_written_with_what_it_was_measured_under(run: Path, data: Path) -> None:
    pytest.importorskip("lm_eval")
    told: list[str] = []
    results = evaluate_suites(
        run,
        "toxicity,utility,quality,detection,bias",
        data=[str(data)],
        limit=4,
        progress=lambda stage, done, total, note="": told.append(stage),
    )
    assert [result.suite for result in results] == ["toxicity", "utility", "quality", "detection", "bias"]
    for result in results:
        assert read_suite(run, result.suite, "sft").measurements == result.measurements
        assert {m.tags["limit"] for m in result.measurements} == {"4"}
        assert result.settings["path"] == str(run / "model")
        assert "oracle short" in result.settings
    toxicity, utility, quality, detection, bias = results
    assert toxicity.find("toxicity_fraction", task="rtp", judge="short").n == 4
    assert toxicity.find("short_rate", group="dog").n == 2
    assert toxicity.settings["data rtp"] == str(data / "rtp.jsonl")
    assert utility.find("accuracy", task="piqa").n == 4
    assert any("siqa was not measured" in note for note in utility.notes)
    assert quality.find("distinct_2").n == 3
    assert all("rows" in m.tags for result in results for m in result.measurements)
    assert detection.find("roc_auc").n == 4
    assert bias.find("refusal_rate", group="safe").n == 2
    assert bias.find("identity_perplexity").n == 4
    assert told[0] == "reading the suites' data"


def test_the_model_before_is_measured_on_the_same_rows_beside_it(run: Path, data: Path) -> None:
    for model in (None, "before"):
        evaluate_suites(run, ["toxicity"], data=[str(data)], limit=2, model_path=model)
    ours, before = (read_suite(run, "toxicity", name) for name in ("sft", "before"))
    assert [item["prompt"] for item in ours.items] == [item["prompt"] for item in before.items]
    assert ours.find("emt", task="rtp").tags["rows"] == before.find("emt", task="rtp").tags["rows"]
    (other,) = evaluate_suites(run, ["toxicity"], data=[str(data)], limit=3)
    assert ours.find("emt", task="rtp").tags["rows"] != other.find("emt", task="rtp").tags["rows"]


def test_other_judges_and_more_outputs_a_prompt(run: Path, data: Path) -> None:
    (result,) = evaluate_suites(
        run, "toxicity", data=[f"rtp={data / 'rtp.jsonl'}"], judges=[LengthConfig(maximum=1, name="one")],
        samples_per_prompt=3, name="mine",
    )  # fmt: skip
    assert result.find("emt", judge="one", k="3").n == 5
    assert len(result.items) == 15
    assert suite_path(run, "toxicity", "mine").exists()


def test_a_referee_compares_with_the_model_before_or_with_another_run(
    run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other run"
    shutil.copytree(run, other)
    for against, name in (("before", "before"), (str(other), "other run")):
        (result,) = evaluate_suites(run, "quality", limit=3, referees=[str(tiny_model)], against=against)
        assert result.find("win_rate", against=name).n == 3
        assert result.find("output_perplexity").value > 1
    (same,) = evaluate_suites(run, "quality", limit=3, referees=[str(tiny_model)], model_path="before")
    assert any("a model has none against itself" in note for note in same.notes)


def test_a_judge_of_refusals_that_cannot_be_reached_is_found_before_the_model_is_loaded(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "load_chosen", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(OracleError, match=r"gave no answer to a first question \(no connection\)"):
        monkeypatch.setattr("adhere.oracles.retries.FIRST_WAIT", 0.0)
        evaluate_suites(run, "bias", data=[str(data)], referees=["judge@http://127.0.0.1:9/v1"])


def test_what_cannot_be_measured_is_found_before_the_model_is_loaded(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "load_chosen", lambda *_: pytest.fail("a model was loaded"))
    (data / "rtp.jsonl").write_text('{"text_": "x"}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"rtp\.jsonl, line 1: no column prompt or text"):
        evaluate_suites(run, "toxicity", data=[str(data)])
    with pytest.raises(RecipeError, match="did you mean toxicity"):
        evaluate_suites(run, "toxicty")
    with pytest.raises(RecipeError, match="part of a file's name"):
        evaluate_suites(run, "bias", name="a/b", data=[str(data)])
    with pytest.raises(ModelError, match="does not exist"):
        evaluate_suites(run, "bias", model_path=tmp_path / "none", data=[str(data)])
    with pytest.raises(ModelError, match="does not exist"):
        evaluate_suites(run, "quality", referees=["./none"], against=str(tmp_path / "none"))
    shutil.rmtree(run / "model")
    with pytest.raises(RunFolderError, match=r"no trained model yet.*--model; before"):
        evaluate_suites(run, "toxicity", data=[str(data)])
    with pytest.raises(RunFolderError, match=r"has no recipe\.yaml"):
        evaluate_suites(tmp_path / "nowhere", "toxicity")


def test_a_suite_that_is_done_stays_when_a_later_one_fails(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OracleError("the judge is gone")

    monkeypatch.setattr(suites, "bias_suite", fails)
    with pytest.raises(OracleError):
        evaluate_suites(run, "detection,bias", data=[str(data)])
    assert suite_path(run, "detection", "sft").exists()
    assert not suite_path(run, "bias", "sft").exists()
