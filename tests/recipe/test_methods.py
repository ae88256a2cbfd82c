"""Every method that ours is compared with: one recipe, one folder, one statement of what it has cost."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adhere.cli.interruption import kept
from adhere.costs import Costs, read_costs
from adhere.data.sample_store import SampleStore
from adhere.errors import RecipeError
from adhere.recipe.check import check_recipe
from adhere.recipe.doctor import doctor
from adhere.recipe.evaluate import evaluate_run
from adhere.recipe.folder import saved_recipe
from adhere.recipe.sample import sample_run
from adhere.recipe.schema import Recipe
from adhere.recipe.stages import TITLES
from adhere.recipe.train import train_recipe
from adhere.recipe.trained import load_policy_of, load_trained
from adhere.sampling.guided_model import GuidedForCausalLM

pytest.importorskip("trl")

MakeRecipe = Callable[..., Recipe]
BASELINES = {
    "reinforcement": {"prompts_per_step": 2, "generations": 4, "learning_rate": 1e-3},
    "preference": {"learning_rate": 1e-3},
}
# Two of five outputs of a model that knows nothing have one of these letters; no row of the corpus does.
CAPITALS = [{"oracle": {"kind": "regex", "pattern": "[A-P]"}}]
AFTER_SFT = ("rloo", "grpo", "dpo")
ROWS = 18


class Stop(BaseException):
    """A stop that no `except Exception` catches, as Ctrl-C is."""


def _stop_at(title: str, step: int) -> Callable[..., None]:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if (stage, done) == (title, step):
            raise Stop

    return progress


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _untimed(costs: Costs) -> Costs:
    return replace(costs, train_seconds=0.0)


def _constraints(method: str) -> dict[str, Any]:
    """Where outputs are rewarded or paired, a rule that some of them violate."""
    return {"constraints": CAPITALS} if method in AFTER_SFT else {}


@pytest.mark.parametrize("method", ["filtered-sft", "rloo", "grpo", "dpo", "guided-decoding"])
def test_a_recipe_becomes_a_model_by_every_method(make_recipe: MakeRecipe, method: str) -> None:
    told: list[str] = []
    recipe = make_recipe(method=method, baselines=BASELINES, **_constraints(method))
    plan = check_recipe(recipe)
    assert (plan.method, plan.steps) == (method, 4)
    folder = train_recipe(recipe, progress=lambda stage, done, total, note="": told.append(stage))
    assert saved_recipe(folder) == recipe
    assert _json(folder / "manifest.json")["method"] == method
    assert not _same(load_file(Path(recipe.model.path) / "model.safetensors"), _weights(folder))
    stages = [stage for stage in dict.fromkeys(told) if stage in TITLES.values()]
    assert stages == ([TITLES["sft"]] if method in ("rloo", "grpo", "dpo") else []) + [TITLES[method]]
    history = _json(folder / "log_history.json")
    steps = [line["step"] for line in history]
    assert steps == sorted(steps)
    assert steps[-1] == 4
    costs = read_costs(folder)
    assert (costs.optimizer_steps, costs.no_verdict) == (4, 0)
    assert costs.generated_outputs == plan.samples
    assert costs.trained_tokens > 0
    finished = _json(folder / "training.json")
    assert (finished["steps"], finished["train_seconds"]) == (4, costs.train_seconds)
    assert "manifest.json" in finished["digests"]
    assert costs.train_seconds > 0
    names = {path.name for path in (folder / "model").iterdir()}
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    assert load_trained(folder, recipe).tokenizer.pad_token_id is not None


def test_costs_are_those_of_what_lies_in_the_folder(make_recipe: MakeRecipe) -> None:
    def trained(method: str) -> tuple[Path, Costs]:
        folder = make_recipe().output_dir.with_name(method)
        train_recipe(make_recipe(method=method, baselines=BASELINES, output_dir=str(folder), **_constraints(method)))
        return folder, read_costs(folder)

    folder, costs = trained("sft")
    tokens = costs.trained_tokens
    assert _untimed(costs) == Costs(optimizer_steps=4, trained_tokens=tokens)
    folder, costs = trained("filtered-sft")
    assert _untimed(costs) == Costs(oracle_calls=ROWS, optimizer_steps=4, trained_tokens=costs.trained_tokens)
    folder, costs = trained("guided-decoding")
    samples = SampleStore(folder).labelled(0)
    drawn = sum(len(item.sample.output_ids) for item in samples)
    assert (costs.generated_outputs, costs.generated_tokens, costs.oracle_calls) == (16, drawn, 16 + 16)
    assert costs.trained_tokens == tokens  # plain fine-tuning, and NADO learns from what is read
    assert costs.prefix_scores > 0
    folder, costs = trained("constrained")
    drawn = sum(len(item.sample.output_ids) for k in (0, 1) for item in SampleStore(folder).labelled(k))
    assert (costs.generated_outputs, costs.generated_tokens, costs.oracle_calls) == (16, drawn, 16 + ROWS)
    assert costs.trained_tokens == tokens
    folder, costs = trained("rloo")
    assert (costs.generated_outputs, costs.oracle_calls, costs.prefix_scores) == (2 * 8, 2 * 8, 0)
    assert 16 <= costs.generated_tokens <= 16 * 8
    folder, costs = trained("dpo")
    assert (costs.generated_outputs, costs.oracle_calls, costs.prefix_scores) == (16, 16, 0)


CASES = [
    ("filtered-sft", TITLES["filtered-sft"], 3),
    ("guided-decoding", "sampling for guidance", 1),
    ("rloo", TITLES["sft"], 1),
    ("rloo", TITLES["rloo"], 2),
    ("grpo", TITLES["grpo"], 2),
    ("dpo", "sampling for pairs", 1),
    ("dpo", TITLES["dpo"], 2),
]


@pytest.mark.parametrize(("method", "title", "step"), CASES)
def test_a_stopped_run_resumes_to_the_same_model_at_the_same_cost(
    make_recipe: MakeRecipe, tmp_path: Path, method: str, title: str, step: int
) -> None:
    settings = {
        "method": method, "baselines": {**BASELINES, "corpus_share": 0.4}, "training": {"max_steps": 5, "save_steps": 1},
        **_constraints(method),
    }  # fmt: skip
    whole = train_recipe(make_recipe(**settings, output_dir=str(tmp_path / "whole")))
    assert method not in AFTER_SFT or not _same(_weights(whole), _weights(whole / "stages" / "sft"))
    stopped = make_recipe(**settings)
    with pytest.raises(Stop):
        train_recipe(stopped, progress=_stop_at(title, step))
    assert not (stopped.output_dir / "model").exists() or method == "guided-decoding"
    assert _same(_weights(train_recipe(stopped, resume=True)), _weights(whole))
    assert _untimed(read_costs(stopped.output_dir)) == _untimed(read_costs(whole))
    one, other = (_json(folder / "log_history.json") for folder in (stopped.output_dir, whole))
    assert [line["loss"] for line in one if "loss" in line] == [line["loss"] for line in other if "loss" in line]


def test_the_first_stage_is_plain_fine_tuning_and_the_second_begins_with_its_model(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="rloo", baselines=BASELINES)
    plain = make_recipe(method="sft", training={"max_steps": 2}, output_dir=str(recipe.output_dir.with_name("sft")))
    assert _same(_weights(train_recipe(recipe) / "stages" / "sft"), _weights(train_recipe(plain)))
    assert not list((recipe.output_dir / "stages" / "sft").glob("checkpoint-*"))


def test_without_a_share_for_the_corpus_the_model_is_taken_as_it_is(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="rloo", baselines={**BASELINES, "corpus_share": 0.0})
    folder = train_recipe(recipe)
    assert _same(_weights(folder / "stages" / "sft"), load_file(Path(recipe.model.path) / "model.safetensors"))
    assert read_costs(folder).generated_outputs == 4 * 8


@pytest.mark.parametrize("method", ["rloo", "dpo", "guided-decoding"])
def test_an_adapter_is_trained_by_every_kind_of_method(make_recipe: MakeRecipe, tmp_path: Path, method: str) -> None:
    lora = {"model": {"lora": {"r": 2, "alpha": 4}}, "baselines": BASELINES}
    settings: dict[str, Any] = {"method": method, **lora, **_constraints(method)}
    recipe = make_recipe(**settings, training={"save_steps": 1}, output_dir=str(tmp_path / "whole"))
    folder = train_recipe(recipe)
    assert {path.name for path in (folder / "model").iterdir() if path.is_dir()} == set()  # no copy beside the adapter
    assert (folder / "model" / "adapter_config.json").exists()
    first = folder / ("stages/sft/model" if method != "guided-decoding" else "model")
    adapters = [load_file(path / "adapter_model.safetensors") for path in (first, folder / "model")]
    assert _same(*adapters) == (method == "guided-decoding")
    assert len(sample_run(folder, ["a cat"], 1)) == 1
    stopped = make_recipe(**settings, training={"save_steps": 1})
    with pytest.raises(Stop):
        train_recipe(stopped, progress=_stop_at(TITLES[method], 2))
    again = load_file(train_recipe(stopped, resume=True) / "model" / "adapter_model.safetensors")
    assert _same(again, adapters[1])


def test_a_guided_run_is_evaluated_and_sampled_as_the_guided_model(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="guided-decoding", nado_fit={"epochs": 4, "learning_rate": 0.05, "corpus_rows": 18})
    folder = train_recipe(recipe)
    guided, bare = load_trained(folder, recipe).model, load_policy_of(folder, recipe)
    assert isinstance(guided, GuidedForCausalLM)
    result = evaluate_run(folder)
    assert result.model == "guided-decoding"
    ids = torch.tensor([[97, 32, 99, 97, 116]])
    assert not torch.allclose(guided(ids).logits, bare.model(ids).logits.log_softmax(-1), atol=1e-4)
    other = evaluate_run(folder, model_path=str(folder / "model"), name="bare")
    assert result["corpus_perplexity"].value != other["corpus_perplexity"].value
    ours = sample_run(folder, ["a cat", "a dog"], 4)
    assert ours == sample_run(folder, ["a cat", "a dog"], 4, guided=True)  # it is guided already
    assert all(sample.log_importance == 0.0 for sample in ours)
    assert sample_run(folder, ["a cat", "a dog"], 4, base=True, guided=True)


def test_the_doctor_and_a_stop_know_the_first_stage(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="rloo", baselines=BASELINES, training={"save_steps": 1}, constraints=CAPITALS)
    with pytest.raises(Stop):
        train_recipe(recipe, progress=_stop_at(TITLES["sft"], 2))
    found = {finding.what: finding for finding in doctor(recipe.output_dir)}
    assert found["checkpoint-1: whole"].severity == "ok"
    assert "--resume" in found["training has not ended"].advice
    with pytest.raises(Stop):
        train_recipe(recipe, resume=True, progress=_stop_at(TITLES["rloo"], 0))
    assert kept(recipe.output_dir) == f"On disk in {recipe.output_dir}: the model of the first stage."


def test_a_run_too_short_for_two_stages_is_refused_before_anything_is_spent(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"fine-tunes on the corpus for 1 of the run's steps .*of 1 that leaves none"):
        check_recipe(make_recipe(method="dpo", training={"max_steps": 1}))


def test_settings_that_trl_refuses_are_an_error_of_the_recipe(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"TRL refuses these settings.*auto_find_batch_size"):
        check_recipe(make_recipe(method="rloo", training={"arguments": {"auto_find_batch_size": True}}))


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_a_missing_trl_is_told_before_anything_is_spent(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else find(name, *rest))
    recipe = make_recipe(method=method)
    with pytest.raises(RecipeError, match=r"pip install 'adhere\[baselines\]'"):
        train_recipe(recipe)
    assert not recipe.output_dir.exists()


def test_pairs_that_cannot_be_made_are_told_with_what_to_change(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"dpo: no pair among 16 outputs: 16 satisfy, 0 violate"):
        train_recipe(make_recipe(method="dpo"))


@pytest.mark.parametrize(
    ("section", "settings"),
    [({"corpus_share": 1.0}, "corpus_share"), ({"reinforcement": {"generations": 1}}, "generations"),
     ({"preference": {"beta": 0.0}}, "beta"), ({"reward": "sum"}, "reward"), ({"steps": 3}, "steps")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(make_recipe: MakeRecipe, section: dict[str, Any], settings: str) -> None:
    with pytest.raises(ValueError, match=settings):
        make_recipe(baselines=section)
