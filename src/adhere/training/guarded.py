"""A Trainer that looks at every step before it is taken: a loss, a gradient or a KL that went wrong does not reach the weights.

A step that is skipped leaves weights and optimiser as they were; it counts as a step, the learning rate goes on and so
does the data, so that a run which skips it, and one which stops at it and is resumed, come to the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere.errors import AdhereError, HealthError
from adhere.training.faulty_steps import StepFault, save_step
from adhere.training.health_config import HealthConfig
from adhere.training.last_step import EndsAtLastStep
from adhere.training.progress_log import ProgressLog
from adhere.training.sealing import SealsCheckpoints

if TYPE_CHECKING:
    from adhere.guidance.guidance import Guidance

_ADVICE = {
    "non_finite": "lower training.learning_rate or training.max_grad_norm, look at the rows, or train without bf16",
    "exploding_kl": "lower training.learning_rate or the constraint's weight, or raise health.max_kl",
}


class GuardedTrainer(EndsAtLastStep):
    """Checks loss, gradient and KL once for every optimiser step, as `HealthConfig` says.

    Under DeepSpeed, which takes its steps itself, the loss alone is checked, and what is wrong stops the run.
    """

    def __init__(self, *arguments: Any, health: HealthConfig | None = None, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.health = health or HealthConfig()
        self.progress = ProgressLog(Path(str(self.args.output_dir)))
        self.guidance: Guidance | None = None
        self.fault = ""  # what the run stops for
        self.failure: AdhereError | None = None  # or this, of its guidance
        self._batches: list[dict[str, Tensor]] = []  # of the step under way
        self._losses: list[Tensor] = []
        self._kls: list[Tensor] = []
        self._norm: Tensor | float | None = None  # of its gradient
        self._skipped = 0  # steps in a row
        self.add_callback(_Looks(self))
        self.add_callback(SealsCheckpoints())
        self.add_callback(_StopsAfterSave(self))  # the last one: all others have kept what they keep

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As in `Trainer`; the numbers of the corpus rows are not the model's to see."""
        kept = {name: value for name, value in inputs.items() if name != "row"}
        return super().compute_loss(model, kept, return_outputs, num_items_in_batch)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As in `Trainer`; what the micro-batch was, and its loss, are kept until the step has been looked at."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._batches.append({name: value for name, value in inputs.items() if isinstance(value, Tensor)})
        self._losses.append(loss.detach())
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """As in `Trainer`, kept: another pass over all gradients would take a twentieth of a small model's step."""
        self._norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        return self._norm

    def stop_with(self, error: AdhereError) -> None:
        """End the run before its next step by this error, with a checkpoint; at once where there is one of this step."""
        step = self.state.global_step
        if step == 0 or (Path(str(self.args.output_dir)) / f"checkpoint-{step}").exists():
            raise error
        self.failure = error
        self.control.should_save = self.control.should_training_stop = True

    def note_kl(self, kl: Tensor) -> None:
        """Take in a micro-batch's share of the step's KL, in nats per token."""
        self._kls.append(kl.detach())

    def look(self) -> None:
        """One look at the step, whose gradient is dropped if need be.

        The numbers are read together, so that an accelerator is waited for once.
        """
        losses, kls, norm = self._losses, self._kls, self._gradient_norm()
        self._losses, self._kls, self._norm = [], [], None
        numbers = torch.stack([part.float().to(norm.device) for part in (*losses, norm, *kls)])
        if self.accelerator.num_processes > 1:
            numbers = self.accelerator.reduce(numbers, "mean")  # NaN and infinity stay what they are
        told = numbers.tolist()
        values, gradient_norm, kl = told[: len(losses)], told[len(losses)], sum(told[len(losses) + 1 :])
        kind, what = "", ""
        if not math.isfinite(sum(values)):
            kind, what = "non_finite", f"the loss is {sum(values)}"
        elif not math.isfinite(gradient_norm) and self.accelerator.scaler is None:  # fp16's scaler expects infinities
            kind, what = "non_finite", f"the loss is {sum(values):.4g} but its gradient is {gradient_norm}"
        elif not kl <= self.health.max_kl:
            kind, what = "exploding_kl", f"the KL is {kl:.4g} nats per token, more than {self.health.max_kl:g}"
        if kind:
            self._treat(kind, what, values, gradient_norm, kl)
        else:
            self._skipped = 0
        self._batches = []

    def _gradient_norm(self) -> Tensor:
        norm = self._norm
        if norm is None:  # DeepSpeed does not tell it, and has taken the gradients
            gradients = [p.grad for p in self._parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients) if gradients else 0.0
        norm = norm if isinstance(norm, Tensor) else self._losses[0].new_tensor(norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded

    def _treat(self, kind: str, what: str, losses: list[float], gradient_norm: float, kl: float) -> None:
        step, folder = self.state.global_step + 1, Path(str(self.args.output_dir))
        policy = getattr(self.health, kind)
        sharded = self.is_deepspeed_enabled
        version = None if self.guidance is None else self.guidance.version
        assert self.optimizer is not None
        self._skipped = self._skipped + 1 if policy == "skip" else 0
        tired = self._skipped > self.health.skips_in_a_row
        if policy == "skip" and (tired or sharded):
            policy = "stop"
        fault = StepFault(
            step, what, losses, gradient_norm, kl,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            counts=getattr(self, "_counts", None),
            guidance=None if version is None else (version.iteration, version.policy_step),
            process=self.accelerator.process_index,
            rows=[batch["row"].tolist() if "row" in batch else [] for batch in self._batches],
        )  # fmt: skip
        saved = save_step(folder, fault, self._batches)
        if policy != "warn":
            self._drop_gradient()
        done = {"warn": "taken all the same", "skip": "skipped", "stop": "not taken, and the run stops"}[policy]
        sentence = f"step {step}: {what}; the step was {done}. Its batch is in {saved.relative_to(folder)}"
        if self.is_world_process_zero():
            numbers = {"fault": kind, "policy": policy, "batch": str(saved.relative_to(folder)), "sentence": sentence}
            self.progress.event("fault", step, numbers)
        if policy == "stop":
            often = f" By now {self._skipped} steps in a row went wrong." if tired else ""
            self.fault = (
                f"step {step}: {what}; the step was not taken.{often} Its batch is in {saved}, and checkpoint-{step} is what "
                f"was before it: --resume goes on with the step after it. If it comes again, {_ADVICE[kind]}, or say what "
                f"else to do (health.{kind})"
            )
            self.control.should_save = self.control.should_training_stop = True

    def _drop_gradient(self) -> None:
        """Make the optimiser's next step none at all: parameters without a gradient are left alone, and so is their state."""
        for parameter in self._parameters():
            parameter.grad = None

    def _parameters(self) -> Iterator[nn.Parameter]:
        assert isinstance(self.model, nn.Module)
        return self.model.parameters()


class _Looks(TrainerCallback):
    """Has every step looked at between the clipping of its gradient and the optimiser."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._trainer.look()


class _StopsAfterSave(TrainerCallback):
    """Ends a run at a fault, once its checkpoint is on disk."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.fault = ""
        self._trainer.failure = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._trainer.fault:
            raise HealthError(self._trainer.fault)
        if self._trainer.failure is not None:
            raise self._trainer.failure
