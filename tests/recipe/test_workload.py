"""What a plan is made of: how much each method trains, reads and draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adhere.recipe.schema import Recipe
from adhere.recipe.workload import Workload, corpus_steps, workload

MakeRecipe = Callable[..., Recipe]
TRAINING = {"max_steps": 10, "batch_size": 4, "gradient_accumulation_steps": 2}
BASELINES = {"corpus_share": 0.4, "reinforcement": {"prompts_per_step": 2, "generations": 3}}
CORPUS = 4 * 2 * 20.0  # tokens of a step: 8 rows of 20


def _of(make_recipe: MakeRecipe, method: str, **baselines: object) -> Workload:
    recipe = make_recipe(method=method, training=TRAINING, baselines={**BASELINES, **baselines})
    return workload(recipe, steps=10, row_length=20.0, prompt_length=2.0)


@pytest.mark.parametrize("method", ["sft", "filtered-sft", "constrained"])
def test_methods_that_learn_the_corpus_alone_train_on_its_rows(make_recipe: MakeRecipe, method: str) -> None:
    assert _of(make_recipe, method) == Workload(10 * CORPUS)


def test_guided_decoding_draws_and_reads_besides(make_recipe: MakeRecipe) -> None:
    assert _of(make_recipe, "guided-decoding") == Workload(10 * CORPUS, 2 * (16 + 16) * 20.0, 16)


def test_reinforcement_learning_draws_every_step_after_the_corpus(make_recipe: MakeRecipe) -> None:
    outputs = 6 * 2 * 3
    assert _of(make_recipe, "rloo") == Workload(4 * CORPUS + outputs * 10.0, 2 * outputs * 10.0, outputs)
    without = {"prompts_per_step": 2, "generations": 3, "beta": 0.0}
    assert _of(make_recipe, "grpo", reinforcement=without).read_tokens == outputs * 10.0


def test_preference_optimisation_trains_on_both_outputs_of_a_pair(make_recipe: MakeRecipe) -> None:
    assert _of(make_recipe, "dpo") == Workload(4 * CORPUS + 6 * 8 * 2 * 10.0, 6 * 8 * 2 * 10.0, 16)
    assert _of(make_recipe, "dpo", preference={"samples": 40}).drawn == 40


@pytest.mark.parametrize(("share", "steps", "first"), [(0.0, 10, 0), (0.5, 75, 38), (0.01, 10, 1), (0.5, 2, 1)])
def test_the_corpus_has_its_share_of_the_steps(make_recipe: MakeRecipe, share: float, steps: int, first: int) -> None:
    assert corpus_steps(make_recipe(method="rloo", baselines={"corpus_share": share}), steps) == first
