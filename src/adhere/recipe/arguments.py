"""A recipe's `training` section as transformers' `TrainingArguments`, the same for every method."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from adhere.errors import RecipeError
from adhere.models.frozen import fast_dtype
from adhere.recipe.schema import Recipe
from adhere.training.config import ConstrainedConfig

DEFAULT_EPOCHS = 3.0

# Its name from transformers 5.20 or so on; the old one warns.
_CHECKPOINTING = next(
    field.name
    for field in dataclasses.fields(TrainingArguments)
    if field.name in ("activation_checkpointing", "gradient_checkpointing")
)

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def arguments_for(recipe: Recipe) -> TrainingArguments:
    """The settings of the recipe's method. Raises RecipeError when transformers refuses them."""
    build = constrained_arguments if recipe.method == "constrained" else plain_arguments
    return build(recipe, recipe.output_dir)


def constrained_arguments(recipe: Recipe, folder: Path) -> ConstrainedConfig:
    """For `ConstrainedTrainer`. Raises RecipeError when transformers refuses the settings."""
    guidance = recipe.guidance
    own = {
        "schedule": guidance.schedule,
        "iterations": guidance.iterations,
        "anchor": guidance.anchor,
        "positions": guidance.positions,
        "violating_rows": guidance.violating_rows,
        "prefix_weight_clip": guidance.prefix_weight_clip,
        "max_length": recipe.corpus.max_length,
        "max_prompt_length": recipe.corpus.max_prompt_length,
        "prompt_words": recipe.corpus.prompt_words,
        "sampling": recipe.sampling,
        "refresh": {"samples": guidance.samples, "samples_per_prompt": guidance.samples_per_prompt},
        "nado": recipe.nado,
        "nado_fit": recipe.nado_fit,
    }
    return _built(ConstrainedConfig, {**_shared(recipe, folder), **own})


def plain_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """For transformers' own Trainer. Raises as `constrained_arguments`."""
    return _built(TrainingArguments, _shared(recipe, folder))


def trains_in_bf16(recipe: Recipe) -> bool:
    """Whether arithmetic is bfloat16: as the recipe says, or where the hardware has it."""
    if recipe.training.bf16 != "auto":
        return recipe.training.bf16
    return "fp16" not in recipe.training.arguments and fast_dtype(training_device()) == torch.bfloat16


def training_device() -> torch.device:
    """Where training runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _shared(recipe: Recipe, folder: Path) -> dict[str, Any]:
    training = recipe.training
    epochs = DEFAULT_EPOCHS if training.epochs is None else training.epochs
    return {
        "use_cpu": training_device().type == "cpu",
        "dataloader_pin_memory": training_device().type == "cuda",
        **training.arguments,
        "output_dir": str(folder),
        "seed": recipe.seed,
        "learning_rate": training.learning_rate,
        "max_steps": training.max_steps or -1,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "warmup_steps": training.warmup,
        "lr_scheduler_type": training.lr_scheduler_type,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "save_total_limit": training.save_total_limit,
        "bf16": trains_in_bf16(recipe),
        **({_CHECKPOINTING: True} if training.gradient_checkpointing else {}),
        "report_to": list(training.report_to) or "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }


def _built(kind: type[Arguments], settings: dict[str, Any]) -> Arguments:
    try:
        return kind(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"training: transformers refuses these settings: {error}") from error
