"""The stages of a run: what trains with one optimiser, one learning-rate schedule and one stream of checkpoints.

Most methods have one. rloo, grpo and dpo have two: plain fine-tuning on the corpus in `stages/sft/`, then their own, which
begins with the model of the first as it was saved, whether or not a stop came between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from adhere.errors import RecipeError
from adhere.models.policy import ModelConfig, Policy, is_quantized, load_policy
from adhere.recipe.plan import training_steps
from adhere.recipe.schema import Method, Recipe
from adhere.recipe.workload import AFTER_SFT, corpus_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"

TITLES = {
    "constrained": "constrained fine-tuning",
    "sft": "plain fine-tuning",
    "filtered-sft": "plain fine-tuning on the filtered corpus",
    "guided-decoding": "plain fine-tuning",
    "rloo": "reinforcement learning (RLOO)",
    "grpo": "reinforcement learning (GRPO)",
    "dpo": "preference optimisation (DPO)",
}
"""What a person is told is going on."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One of them.

    `steps` is None where the recipe alone says how long it is; 0 where the model is taken as it is.
    """

    method: Method
    folder: Path
    steps: int | None = None


def stages_of(recipe: Recipe, rows: int) -> list[Stage]:
    """The stages of a run, in order; the last one is in the run folder itself.

    Args:
        rows: how many rows the corpus has to learn from.

    Raises:
        RecipeError: too few steps for two stages.
    """
    if recipe.method not in AFTER_SFT:
        return [Stage(recipe.method, recipe.output_dir)]
    steps = training_steps(recipe, rows)
    first = corpus_steps(recipe, steps)
    if first >= steps:
        raise RecipeError(
            f"method {recipe.method} fine-tunes on the corpus for {first} of the run's steps (baselines.corpus_share: "
            f"{recipe.baselines.corpus_share:g}), and of {steps} that leaves none for itself: raise training.max_steps or "
            "training.epochs, or lower baselines.corpus_share"
        )
    return [
        Stage("sft", recipe.output_dir / "stages" / "sft", first),
        Stage(recipe.method, recipe.output_dir, steps - first),
    ]


def load_stage(recipe: Recipe, folder: Path) -> Policy:
    """The model that a stage was saved as, to be trained on: an adapter goes on as the adapter it is.

    Raises:
        ModelError, DownloadError: it, or the model that its adapter belongs to, cannot be loaded.
    """
    if not (folder / ADAPTER).exists():
        kept = {"dtype": recipe.model.dtype, "trust_remote_code": recipe.model.trust_remote_code}
        return load_policy(ModelConfig(path=str(folder), **kept))
    from peft import PeftModel, prepare_model_for_kbit_training

    base = load_policy(recipe.model.model_copy(update={"lora": None}))
    model = base.model
    if is_quantized(model):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    return Policy(cast("PreTrainedModel", adapted), base.tokenizer)
