"""Evaluated runs of a tiny model, read and compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adhere.errors import RecipeError, RunFolderError
from adhere.recipe.run import compare_runs, comparison_rows, evaluate_run, train_recipe, write_comparison
from adhere.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `plain` and `held`, the first evaluated before and after training."""
    folder = tmp_path_factory.mktemp("compared")
    rows = [f"{a} {b} is {word} now" for a in "abcdef" for b in ("cat", "dog") for word in ("bad", "good")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    (folder / "clean.txt").write_text("a clean text\nand another one\nand a third\n", encoding="utf-8")
    for name, method in (("plain", "sft"), ("held", "filtered-sft")):
        recipe = Recipe.model_validate(
            {
                "method": method,
                "model": {"path": str(tiny_model)},
                "corpus": {"path": str(folder / "corpus.jsonl"), "prompt_words": 2, "max_length": 32, "holdout": 0.5},
                "constraints": [{"oracle": {"kind": "words", "words": ["bad"]}}],
                "sampling": {"max_new_tokens": 6},
                "training": {"max_steps": 2, "batch_size": 4, "bf16": False},
                "evaluation": {"clean_texts": str(folder / "clean.txt")},
                "output_dir": str(folder / name),
            }
        )
        train_recipe(recipe)
        evaluate_run(recipe.output_dir)
    evaluate_run(folder / "plain", model_path="before")
    return folder


def test_models_are_named_by_run_and_where_needed_by_model(runs: Path) -> None:
    comparison = compare_runs([str(runs / "plain"), str(runs / "held")])
    assert comparison.models == ("plain:before", "plain:sft", "held")
    assert comparison.reference == "plain:sft"
    assert comparison.remarks == ()
    assert comparison.facts["held"]["seed"] == "0"
    assert {m.tags["model"] for m in comparison.contrasts} == {"plain:before", "held"}
    costs = {m.tags["model"] for m in comparison.measurements if m.name == "train_seconds"}
    assert costs == {"plain:sft", "held"}  # the model before cost nothing


def test_one_run_alone_compares_its_models_by_their_own_names(runs: Path) -> None:
    assert compare_runs([str(runs / "plain")]).models == ("before", "sft")
    assert compare_runs([f"{runs / 'plain'}:before", str(runs / "held")]).models == ("plain", "held")


def test_the_reference_may_be_named_by_run_or_by_model(runs: Path) -> None:
    both = [str(runs / "plain"), str(runs / "held")]
    assert compare_runs(both, "held").reference == "held"
    assert compare_runs(both, "filtered-sft").reference == "held"
    with pytest.raises(RecipeError, match="no model 'rloo'; give one of plain:before, plain:sft, held"):
        compare_runs(both, "rloo")


def test_runs_of_one_name_are_told_apart_by_where_they_are(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "held", tmp_path / "held")
    names = compare_runs([str(runs / "held"), str(tmp_path / "held")]).models
    assert names == (f"{runs.name}/held", f"{tmp_path.name}/held")


def test_the_same_run_twice_is_one_run(runs: Path) -> None:
    assert len(compare_runs([str(runs / "plain"), f"{runs / 'plain'}/"]).models) == 2


def test_a_run_without_an_evaluation_says_which_command_makes_it(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "held", tmp_path / "young", ignore=shutil.ignore_patterns("evaluation"))
    with pytest.raises(RunFolderError, match=r"make one with `adhere evaluate .*young`"):
        compare_runs([str(runs / "plain"), str(tmp_path / "young")])
    with pytest.raises(RunFolderError, match="there is no run folder"):
        compare_runs([str(tmp_path / "none")])
    with pytest.raises(RunFolderError, match="no evaluation of 'rloo'; it has before, sft"):
        compare_runs([f"{runs / 'plain'}:rloo"])
    with pytest.raises(RecipeError, match="needs two models"):
        compare_runs([str(runs / "held")])


def test_other_prompts_are_remarked_on(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "held", tmp_path / "fewer")
    evaluate_run(tmp_path / "fewer", prompts=3)
    comparison = compare_runs([str(runs / "held"), str(tmp_path / "fewer")])
    assert "were asked different prompts (3 and " in comparison.remarks[0]
    assert all("p" not in m.tags for m in comparison.contrasts)


def test_the_numbers_are_written_as_a_results_file_and_as_a_page(runs: Path, tmp_path: Path) -> None:
    comparison = compare_runs([str(runs / "plain"), str(runs / "held")])
    told = comparison_rows(comparison, "adhere compare a b")
    assert json.loads(json.dumps(told)) == told
    assert set(told) >= {"benchmark", "command", "date", "machine", "versions", "rows", "remarks"}
    assert {row["name"] for row in told["rows"]} >= {
        "violation_rate",
        "violation_rate_difference",
        "clean_perplexity_ratio",
    }
    page = write_comparison(tmp_path / "c.html", comparison, "adhere compare a b").read_text(encoding="utf-8")
    assert "Against plain:sft" in page and "http://" not in page.split("<script>")[0]
    with pytest.raises(RecipeError, match="--utility 'x': no such measure was taken; there are clean_perplexity"):
        write_comparison(tmp_path / "c.html", comparison, "", utility="x")
