"""The recipe's `training` section: the settings of `TrainingArguments` that most runs need, by short names."""

from __future__ import annotations

import difflib
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from adhere.guidance.config import ExecutionConfig, RefreshConfig
from adhere.training.fused_head import FUSED_HEAD, FusedHead
from adhere.training.method_config import MethodConfig

LearningRateSchedule = Literal[
    "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_restarts"
]
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "clearml", "dvclive", "swanlab"]

_ELSEWHERE = {
    "bf16": "training.bf16", "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "fused_head": "training.fused_head", "gradient_checkpointing": "training.gradient_checkpointing", "health": "health",
    "learning_rate": "training.learning_rate",
    "logging_steps": "training.logging_steps", "lr_scheduler_type": "training.lr_scheduler_type",
    "max_grad_norm": "training.max_grad_norm", "max_length": "corpus.max_length", "domains": "domains",
    "max_prompt_length": "corpus.max_prompt_length", "max_steps": "training.max_steps", "nado": "nado",
    "nado_fit": "nado_fit", "num_train_epochs": "training.epochs", "output_dir": "output_dir",
    "per_device_train_batch_size": "training.batch_size", "prompt_words": "corpus.prompt_words", "refresh": "guidance",
    "report_to": "training.report_to", "sampling": "sampling", "save_steps": "training.save_steps",
    "save_total_limit": "training.save_total_limit", "seed": "seed", "warmup_steps": "training.warmup",
    "weight_decay": "training.weight_decay",
    **{
        name: f"guidance.{name}"
        for section in (MethodConfig, RefreshConfig, ExecutionConfig)
        for name in section.model_fields
    },
}  # fmt: skip
_REFUSED = {
    "hub_token": "a recipe holds no secrets; set the environment variable HF_TOKEN",
    "resume_from_checkpoint": "`adhere train --resume` finds the newest whole checkpoint itself",
    "remove_unused_columns": "the trainer needs all columns of a row",
    "do_train": "it does nothing here", "do_eval": "it does nothing here", "do_predict": "it does nothing here",
    "save_only_model": "without the optimiser a run could not be resumed",
    "save_strategy": "checkpoints are written every training.save_steps and at the end of every iteration",
}  # fmt: skip


class TrainingSection(BaseModel):
    """How the weights are trained; what is not here goes into `arguments`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(5e-5, gt=0.0, allow_inf_nan=False, description="peak learning rate of AdamW")
    max_steps: int | None = Field(None, ge=1, description="optimiser steps; or give epochs")
    epochs: float | None = Field(
        None, gt=0.0, allow_inf_nan=False, description="passes over the corpus; 3 when max_steps is not given either"
    )
    batch_size: int = Field(8, ge=1, description="rows a device takes at a time")
    gradient_accumulation_steps: int = Field(1, ge=1, description="such batches to an optimiser step")
    warmup: float = Field(
        0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="steps until the peak learning rate; below 1, a share of all steps",
    )
    lr_scheduler_type: LearningRateSchedule = Field("linear", description="how the learning rate falls after that")
    weight_decay: float = Field(0.0, ge=0.0, allow_inf_nan=False, description="weight decay of AdamW")
    max_grad_norm: float = Field(
        1.0, ge=0.0, allow_inf_nan=False, description="gradients are clipped to this norm; 0 is off"
    )
    logging_steps: int = Field(10, ge=1, description="steps between two lines of the log")
    save_steps: int = Field(
        200, ge=1, description="steps between two checkpoints; one is also written before every refresh of the guidance"
    )
    save_total_limit: int = Field(
        2,
        ge=2,
        description="newest checkpoints that are kept; at least 2, so that a crash while one is written leaves one",
    )
    bf16: bool | Literal["auto"] = Field(
        "auto", description="bfloat16 arithmetic with weights as model.dtype says; auto: where the hardware has it"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for a third more time")
    fused_head: FusedHead = Field("torch", description=FUSED_HEAD)
    report_to: tuple[Tracker, ...] = Field((), description="trackers that get the log as well")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="any other of transformers' TrainingArguments, by its own name"
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSection:
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError(f"give max_steps or epochs, not both; got {self.max_steps} and {self.epochs}")
        return self

    @model_validator(mode="after")
    def _known_arguments(self) -> TrainingSection:
        if self.arguments:
            types = _argument_types()
            for name, value in self.arguments.items():
                _check_argument(name, value, types)
        return self


def _check_argument(name: str, value: object, types: dict[str, Any]) -> None:
    if name in _ELSEWHERE:
        raise ValueError(f"arguments.{name} is set as {_ELSEWHERE[name]}")
    if name in _REFUSED:
        raise ValueError(f"arguments.{name} cannot be set: {_REFUSED[name]}")
    if name not in types:
        near = difflib.get_close_matches(name, types, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"arguments.{name} is not one of transformers' TrainingArguments{hint}")
    try:
        TypeAdapter(types[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        allowed = getattr(types[name], "__name__", None) if not get_args(types[name]) else None
        raise ValueError(f"arguments.{name} must be {allowed or types[name]}, got {value!r}") from error


def _argument_types() -> dict[str, Any]:
    import dataclasses
    import typing

    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainingArguments) if field.init}
