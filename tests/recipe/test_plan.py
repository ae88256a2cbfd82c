from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from adhere.models.outline import outline
from adhere.recipe.check import check_recipe
from adhere.recipe.plan import Plan, memory_needed, training_steps
from adhere.recipe.schema import Recipe
from adhere.recipe.train import train_recipe

MakeRecipe = Callable[..., Recipe]


def test_the_plan_counts_what_will_be_done(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(evaluation={"samples_per_prompt": 3})
    plan = check_recipe(recipe)
    assert (plan.rows, plan.heldout, plan.steps, plan.samples, plan.evaluated) == (18, 6, 4, 16, 3 * _heldout(recipe))
    assert plan.parameters == plan.trainable == 257 * 16 + 16 * 16 * 4 + 3 * 16 * 32 + 3 * 16
    assert 4 * 4 * 10 < plan.tokens < 4 * 4 * 32
    assert plan.training_minutes > 0
    assert not recipe.output_dir.exists()
    shown = dict(plan.lines())
    assert shown["corpus"] == f"18 rows to learn from; 6 held out, {plan.evaluated} outputs evaluated a model"
    assert shown["run folder"] == str(recipe.output_dir)
    assert {"model", "training", "time", "memory", "disk"} <= set(shown)


def test_iterations_left_open_are_counted_by_the_steps_that_the_corpus_gives(make_recipe: MakeRecipe) -> None:
    def plan(method: str, epochs: float) -> Plan:
        guidance = {"iterations": None, "samples": 8, "anchor": "iteration"}
        return check_recipe(
            make_recipe(method=method, guidance=guidance, training={"max_steps": None, "epochs": epochs})
        )

    short, long = plan("constrained", 60), plan("constrained", 180)
    assert (short.steps, short.samples, long.steps, long.samples) == (300, 8, 900, 3 * 8)
    assert (long.disk_gib - short.disk_gib) * 2**30 >= 2 * 4 * long.parameters  # two anchors more
    assert plan("dpo", 180).samples == plan("guided-decoding", 180).samples == 3 * 8


def _heldout(recipe: Recipe) -> int:
    return check_recipe(recipe).evaluated // recipe.evaluation.samples_per_prompt


def test_only_the_adapter_counts_as_trained(make_recipe: MakeRecipe) -> None:
    plan = check_recipe(make_recipe(model={"lora": {"r": 2}}))
    assert 0 < plan.trainable < plan.parameters
    assert "of which" in dict(plan.lines())["model"]


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_steps": None, "epochs": 1.0}, 5),
        ({"max_steps": None, "epochs": 2.0, "gradient_accumulation_steps": 2}, 6),
        ({"max_steps": None, "batch_size": 18}, 3),
    ],
)
def test_steps_are_those_the_trainer_takes(make_recipe: MakeRecipe, training: dict[str, float], steps: int) -> None:
    recipe = make_recipe(method="sft", training=training)
    assert training_steps(recipe, rows=18) == steps
    folder = train_recipe(recipe)
    assert f'"steps": {steps}' in (folder / "training.json").read_text(encoding="utf-8")


def test_a_recipe_without_a_second_judge_is_warned(make_recipe: MakeRecipe) -> None:
    assert any(
        "no second judge" in warning for warning in check_recipe(make_recipe(evaluation={"judges": []})).warnings
    )


def test_prompts_that_are_held_out_are_not_trained_on(make_recipe: MakeRecipe, corpus: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a {noun}\n" for noun in ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant",
                                                          "bee", "elk", "emu", "gnu")), encoding="utf-8")  # fmt: skip
    plan = check_recipe(make_recipe(prompts={"path": str(prompts)}))
    assert plan.prompts == 13 - plan.evaluated
    assert any("are held out, and left out here" in warning for warning in plan.warnings)
    assert math.isfinite(plan.memory_gib)


def test_in_front_of_the_triton_kernel_more_is_held(make_recipe: MakeRecipe) -> None:
    model, needed = outline(make_recipe().model), {}
    for head in ("torch", "triton"):
        needed[head] = memory_needed(make_recipe(training={"fused_head": head, "batch_size": 4}), model, 1000)
    # Chunks of 512 rows of logits in float32, against 2,048 of them, of the constraint's and of the reference's in bfloat16.
    assert needed["triton"] - needed["torch"] == model.vocabulary * (2048 * 2 * 3 - 512 * 4)
