"""How much the methods that ours is compared with train, read and draw: what a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass

from adhere import ranks
from adhere.recipe.schema import Recipe
from adhere.training.method_config import iterations_in

AFTER_SFT = ("rloo", "grpo", "dpo")
"""Methods that begin with a model that was fine-tuned on the corpus."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokens and outputs of a run, as far as can be told before it begins."""

    trained_tokens: float  # with gradient
    read_tokens: float = 0.0  # without
    drawn: int = 0  # outputs


def workload(recipe: Recipe, steps: int, row_length: float, prompt_length: float) -> Workload:
    """What a method trains, and what it reads and draws beside that (of the constrained method: what it trains alone).

    Args:
        steps: of the whole run.
        row_length, prompt_length: mean tokens of a corpus row and of its prompt.
    """
    batch = recipe.training.batch_size * recipe.training.gradient_accumulation_steps * ranks.launched()
    output_length = prompt_length + recipe.sampling.max_new_tokens
    if recipe.method == "guided-decoding":
        drawn = guidance_samples(recipe, steps)
        return Workload(steps * batch * row_length, 2 * (drawn + recipe.nado_fit.corpus_rows) * row_length, drawn)
    if recipe.method not in AFTER_SFT:
        return Workload(steps * batch * row_length)
    first = corpus_steps(recipe, steps)
    own, corpus = steps - first, first * batch * row_length
    if recipe.method == "dpo":
        pairs = own * batch * 2 * output_length
        return Workload(corpus + pairs, pairs, pair_samples(recipe, steps))
    reinforcement = recipe.baselines.reinforcement
    drawn = own * reinforcement.prompts_per_step * reinforcement.generations
    passes = 1 + (reinforcement.beta > 0)  # of the policy that drew them, and of the model it is held near
    return Workload(corpus + drawn * output_length, passes * drawn * output_length, drawn)


def corpus_steps(recipe: Recipe, steps: int) -> int:
    """Of the run's steps, those in which rloo, grpo and dpo fine-tune on the corpus."""
    share = recipe.baselines.corpus_share
    return 0 if share == 0 else max(1, round(share * steps))


def guidance_samples(recipe: Recipe, steps: int) -> int:
    """Outputs that the constrained method draws for guidance in all iterations of a run of so many steps."""
    return recipe.guidance.samples * refreshes(recipe, steps)


def refreshes(recipe: Recipe, steps: int) -> int:
    """How often the constrained method makes guidance: in parallel not for the last iteration, which nothing comes after."""
    iterations = iterations_in(steps, recipe.guidance.iterations)
    return max(1, iterations - 1) if recipe.guidance.schedule == "parallel" else iterations


def pair_samples(recipe: Recipe, steps: int) -> int:
    """Outputs that dpo draws to make pairs of, in a run of so many steps."""
    return recipe.baselines.preference.samples or guidance_samples(recipe, steps)
