"""A recipe's `training` section as transformers' `TrainingArguments`, the same for every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from adhere.baselines.extra import TRL_METHODS, require_trl
from adhere.errors import RecipeError
from adhere.guidance.config import ExecutionConfig
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
    """The settings of the recipe's method. Raises RecipeError when transformers or TRL refuses them, or TRL is missing."""
    if recipe.method == "constrained":
        return constrained_arguments(recipe, recipe.output_dir)
    if recipe.method in TRL_METHODS:
        built: TrainingArguments = trl_arguments(recipe, recipe.output_dir)
        return built
    return plain_arguments(recipe, recipe.output_dir)


def constrained_arguments(recipe: Recipe, folder: Path) -> ConstrainedConfig:
    """For `ConstrainedTrainer`. Raises RecipeError when transformers refuses the settings."""
    guidance = recipe.guidance
    own: dict[str, Any] = {
        "schedule": guidance.schedule,
        **{name: getattr(guidance, name) for name in ExecutionConfig.model_fields},
        "iterations": guidance.iterations,
        "anchor": guidance.anchor,
        "positions": guidance.positions,
        "violating_rows": guidance.violating_rows,
        "reference_kl": guidance.reference_kl,
        "prefix_weight_clip": guidance.prefix_weight_clip,
        "measure_every": guidance.measure_every,
        "measure_samples": guidance.measure_samples,
        "fused_head": recipe.training.fused_head,
        "domains": recipe.domains,
        "max_length": recipe.corpus.max_length,
        "max_prompt_length": recipe.corpus.max_prompt_length,
        "prompt_words": recipe.corpus.prompt_words,
        "sampling": recipe.sampling,
        "refresh": {
            "samples": guidance.samples,
            "samples_per_prompt": guidance.samples_per_prompt,
            "max_without_verdict": guidance.max_without_verdict,
        },
        "nado": recipe.nado,
        "nado_fit": recipe.nado_fit,
        "health": recipe.health,
    }
    return _built(partial(ConstrainedConfig, **_shared(recipe, folder), **own))


def plain_arguments(recipe: Recipe, folder: Path, steps: int | None = None) -> TrainingArguments:
    """For transformers' own Trainer, and `steps` instead of the recipe's. Raises as `constrained_arguments`."""
    return _built(partial(TrainingArguments, **_shared(recipe, folder, steps)))


def trl_arguments(recipe: Recipe, folder: Path, steps: int | None = None) -> Any:  # TRL may not be installed
    """For TRL's trainer of the recipe's method, and `steps` instead of the recipe's.

    Raises:
        RecipeError: TRL is not installed, or it refuses the settings.
    """
    require_trl(recipe.method)
    config = recipe.baselines
    settings = {
        **_shared(recipe, folder, steps),
        _CHECKPOINTING: recipe.training.gradient_checkpointing,  # TRL's default is another than transformers'
        "trust_remote_code": recipe.model.trust_remote_code,
    }
    if recipe.method == "dpo":
        from adhere.baselines.preference import preference_arguments

        return _built(partial(preference_arguments, settings, config.preference), "TRL")
    from adhere.baselines.reinforcement import reinforcement_arguments

    build = partial(reinforcement_arguments, recipe.method, settings, config.reinforcement, recipe.sampling)
    return _built(build, "TRL")


def trains_in_bf16(recipe: Recipe) -> bool:
    """Whether arithmetic is bfloat16: as the recipe says, or where the hardware has it."""
    if recipe.training.bf16 != "auto":
        return recipe.training.bf16
    return "fp16" not in recipe.training.arguments and fast_dtype(training_device()) == torch.bfloat16


def training_device() -> torch.device:
    """Where training runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _shared(recipe: Recipe, folder: Path, steps: int | None = None) -> dict[str, Any]:
    training = recipe.training
    max_steps = steps or training.max_steps or -1
    epochs = DEFAULT_EPOCHS if training.epochs is None else training.epochs
    return {
        "use_cpu": training_device().type == "cpu",
        "dataloader_pin_memory": training_device().type == "cuda",
        **training.arguments,
        "output_dir": str(folder),
        "seed": recipe.seed,
        "learning_rate": training.learning_rate,
        "max_steps": max_steps,
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


def _built(build: Callable[[], Arguments], library: str = "transformers") -> Arguments:
    try:
        return build()
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"training: {library} refuses these settings: {error}") from error
