"""What is done with a run once it is trained: evaluate, sample, label, examine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adhere.errors import CorpusError, GuidanceError, ModelError, RecipeError, RunFolderError
from adhere.evaluation.evaluation_files import read_evaluation
from adhere.oracles.config import LengthConfig, WordsConfig
from adhere.recipe.run import Labelled, doctor, evaluate_run, label_file, sample_run, train_recipe
from adhere.recipe.schema import Recipe
from adhere.sampling.sampler import SamplingConfig

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    clean = tmp_path / "clean.txt"
    clean.write_text("a clean text\nand another one\n", encoding="utf-8")
    return train_recipe(make_recipe(evaluation={"clean_texts": str(clean), "samples_per_prompt": 2}))


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_is_evaluated_as_its_recipe_says(run: Path) -> None:
    told: list[str] = []
    result = evaluate_run(run, progress=lambda stage, done, total, note="": told.append(stage))
    assert result == read_evaluation(run, "constrained")
    assert {m.tags["judge"] for m in result.measurements if m.name == "judge_violation_rate"} == {"short"}
    assert result["clean_perplexity"].n == 2
    assert result["emt"].tags["k"] == "2"
    prompts = {labelled.sample.prompt_index for labelled in result.completions}
    assert len(result.completions) == 2 * len(prompts) > 0
    assert "sampling constrained" in told


def test_perplexity_of_the_corpus_counts_satisfying_rows_alone(run: Path, corpus: Path) -> None:
    held_out = evaluate_run(run)["corpus_perplexity"].n
    texts = [str(row["text"]) for row in _rows(corpus)]
    assert 0 < held_out < 6
    assert sum("bad" in text for text in texts) == 12


def test_the_model_it_began_with_and_others_are_evaluated_beside_it(run: Path, tiny_model: Path) -> None:
    before = evaluate_run(run, model_path="before")
    same = evaluate_run(run, model_path=tiny_model, name="same")
    assert before.model == "before"
    assert [c.sample.output for c in before.completions] == [c.sample.output for c in same.completions]
    assert {path.name for path in (run / "evaluation").glob("*.json")} == {"before.json", "same.json"}


def test_judges_prompts_and_samples_may_be_others_than_the_recipes(run: Path) -> None:
    result = evaluate_run(run, judges=[LengthConfig(maximum=1, name="one")], prompts=2, samples_per_prompt=3)
    assert {m.tags["judge"] for m in result.measurements if m.name == "judge_violation_rate"} == {"one"}
    assert len(result.completions) == 6


def test_what_cannot_be_evaluated_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no recipe\.yaml"):
        evaluate_run(tmp_path / "none")
    with pytest.raises(RecipeError, match="part of a file's name"):
        evaluate_run(run, name="a/b")
    shutil.rmtree(run / "model")
    with pytest.raises(RunFolderError, match="no trained model yet"):
        evaluate_run(run)


def test_samples_of_a_run_are_written_by_prompt_and_repeat_with_their_seed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "samples.jsonl"
    samples = sample_run(run, ["a cat", "a dog"], 3, out)
    assert [(s.prompt, s.replicate) for s in samples] == [(p, r) for p in ("a cat", "a dog") for r in range(3)]
    assert [row["output"] for row in _rows(out)] == [s.output for s in samples]
    assert sample_run(run, ["a cat", "a dog"], 3) == samples
    assert [s.output for s in sample_run(run, ["a cat", "a dog"], 3, seed=1)] != [s.output for s in samples]


def test_guided_samples_come_from_another_distribution_than_the_models_own(run: Path) -> None:
    own, guided = (sample_run(run, ["a cat"], 4, guided=guided) for guided in (False, True))
    assert all(s.log_importance == 0.0 for s in own)
    assert any(s.log_importance != 0.0 for s in guided)
    assert sample_run(run, ["a cat"], 4, guided=True, base=True) != guided


def test_any_model_is_sampled_without_a_run_but_not_guided(tiny_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n", encoding="utf-8")
    samples = sample_run(str(tiny_model), prompts, 1, sampling=SamplingConfig(max_new_tokens=3))
    assert [s.prompt for s in samples] == ["one", "two"]
    assert max(len(s.output_ids) for s in samples) <= 3
    with pytest.raises(RunFolderError, match="is no run folder"):
        sample_run(tiny_model, ["x"], 1, guided=True)


def test_a_run_without_guidance_cannot_guide(make_recipe: MakeRecipe) -> None:
    folder = train_recipe(make_recipe(method="sft"))
    with pytest.raises(GuidanceError, match="holds no guidance"):
        sample_run(folder, ["x"], 1, guided=True)


def test_an_adapter_alone_is_sent_back_to_its_run(make_recipe: MakeRecipe) -> None:
    folder = train_recipe(make_recipe(method="sft", model={"lora": {"r": 2}}))
    assert len(sample_run(folder, ["a cat"], 1)) == 1
    with pytest.raises(ModelError, match="is an adapter; give the run folder"):
        sample_run(folder / "model", ["a cat"], 1)


def test_labels_are_written_beside_what_they_judge(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "output": "a bad one", "x": 1}, {"output": "a good one"}, {"text": "bad"}]
    samples, out = tmp_path / "samples.jsonl", tmp_path / "labels.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert label_file(samples, WordsConfig(words=("bad",)), out) == Labelled(3, 3, 2)
    assert _rows(out) == [
        {**row, "score": score, "oracle": "words"} for row, score in zip(rows, (0, 1, 0), strict=True)
    ]
    samples.write_text('{"prompt": "p"}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line 1: no output to judge"):
        label_file(samples, WordsConfig(words=("bad",)), out)


def test_the_doctor_finds_a_healthy_run_healthy(run: Path) -> None:
    evaluate_run(run)
    findings = doctor(run)
    assert {finding.severity for finding in findings} == {"ok"}
    told = " ".join(finding.what for finding in findings)
    for part in ("recipe.yaml", "manifest.json", "samples/iteration-0001", "guidance/iteration-0000", "checkpoint-4",
                 "evaluation/constrained.json", "model/: whole"):  # fmt: skip
        assert part in told


def test_the_doctor_names_what_is_damaged_and_what_to_do(run: Path) -> None:
    def cut(name: str) -> None:
        (run / name).write_bytes((run / name).read_bytes()[:-40])

    for name in ("manifest.json", "samples/iteration-0001.jsonl", "guidance/iteration-0000/nado.safetensors",
                 "checkpoint-4/optimizer.pt", "model/model.safetensors"):  # fmt: skip
        cut(name)
    (run / "run.lock").write_text("{}", encoding="utf-8")
    found = {finding.what.split(":")[0].split(" ")[0]: finding for finding in doctor(run) if finding.severity != "ok"}
    assert {name: finding.severity for name, finding in found.items()} == {
        "manifest.json": "damaged",
        "samples/iteration-0001.jsonl": "damaged",
        "guidance/iteration-0000": "damaged",
        "checkpoint-4": "damaged",
        "model/model.safetensors": "damaged",
        "run.lock": "warning",
    }
    assert all(finding.advice for finding in found.values())


def test_the_doctor_of_a_run_that_was_stopped_says_how_to_go_on(run: Path) -> None:
    shutil.rmtree(run / "model")
    (run / "training.json").unlink()
    assert any("--resume" in finding.advice for finding in doctor(run))
    (run / "recipe.yaml").write_text("model: [", encoding="utf-8")
    assert doctor(run)[0].severity == "damaged"
    with pytest.raises(RunFolderError, match="is no folder"):
        doctor(run / "none")
