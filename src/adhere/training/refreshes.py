"""The trainer's side of a schedule: makes it, asks it for guidance, and notes what a checkpoint and the timeline need of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from adhere import ranks
from adhere.guidance.executors import Executor, InProcess
from adhere.guidance.led import Led
from adhere.guidance.parallel import Parallel
from adhere.guidance.portable import pack_constraints
from adhere.guidance.ray_config import require_ray
from adhere.guidance.refresh import Refresher
from adhere.guidance.schedule import InForce, Schedule, Sequential, iteration_at
from adhere.guidance.snapshots import Snapshots
from adhere.guidance.spans import SPENT, span, spent
from adhere.guidance.worker_process import WorkerProcess

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adhere.guidance.evidence import Evidence
    from adhere.guidance.guidance import Guidance
    from adhere.models.corpus_features import CorpusFeatures
    from adhere.training.trainer import ConstrainedTrainer

STATE = "adhere_guidance"
"""Where `InForce` stands in `trainer_state.json` of a checkpoint: whole when the checkpoint is."""


class Refreshes:
    """What happens to guidance in the course of a run.

    Args:
        trainer: who trains with it.

    Attributes:
        iteration: that training is in, once guidance was handed over.
        begins: True where the step at hand is the first of its iteration.
        is_new: True where its guidance was not in force before, not even in the checkpoint that training goes on from.
    """

    def __init__(self, trainer: ConstrainedTrainer) -> None:
        self._trainer = trainer
        self.iteration = 0
        self.begins = self.is_new = False
        self.in_force: InForce | None = None
        self._schedule: Schedule | None = None
        self._share: int | None = None
        self._threads = torch.get_num_threads()
        self._training_since: tuple[float, float] | None = None

    def begin(self) -> None:
        """Take up what the checkpoint has that training goes on from, or begin afresh.

        Raises:
            RecipeError: an oracle that cannot be sent to where guidance is to be refreshed.
        """
        self.close()
        callbacks: Any = self._trainer.state.stateful_callbacks
        saved = callbacks.get(STATE)
        self.in_force = InForce(**saved) if saved else None
        if self._trainer.config.where != "in-process":
            pack_constraints(self._trainer.constraints)

    def make(self, refresher: Refresher) -> Schedule:
        """The schedule that the settings ask for, from where the checkpoint stands."""
        trainer, config = self._trainer, self._trainer.config
        schedule = Parallel if config.schedule == "parallel" else Sequential
        trainer.progress.event(
            "schedule", trainer.state.global_step, {"schedule": config.schedule, "executor": config.where}
        )
        executor = self._executor(refresher)
        made = schedule(trainer.starts(), executor, self.in_force, config.max_failures, refresher.report)
        if ranks.count() > 1 and config.where != "in-process":
            return Led(made, refresher.reference.embeddings_VD)
        return made

    def _executor(self, refresher: Refresher) -> Executor:
        config, trainer = self._trainer.config, self._trainer
        if config.where == "in-process":
            return InProcess(refresher)
        if config.where == "ray":
            return _ray_executor(refresher, trainer)
        on_cpu = trainer.reference.embeddings_VD.device.type == "cpu" and config.worker_device in (None, "cpu")
        if on_cpu and config.schedule == "parallel":
            self._threads = torch.get_num_threads()
            self._share = min(config.worker_threads or max(1, self._threads // 2), self._threads)
        threads = self._share or config.worker_threads
        return WorkerProcess(refresher, trainer.loaded_by, config.worker_device, threads, config.refresh_timeout)

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """As `Schedule.guidance_at`, which is made when it is first asked."""
        starts = self._trainer.starts()
        if self._schedule is None:
            self._schedule = self._trainer.make_schedule()
        self.begins = step in starts and (self.iteration != iteration_at(step, starts) or self._training_since is None)
        if self.begins:
            self.note_training()
        self.iteration = iteration_at(step, starts)
        if self.begins:
            with spent(self._report, "waiting", self.iteration):
                guidance = self._schedule.guidance_at(step, policy)
        else:
            guidance = self._schedule.guidance_at(step, policy)
        stands = self._schedule.in_force()
        self.is_new = self.in_force is None or guidance.version.iteration != self.in_force.guidance
        self.in_force = stands
        callbacks: Any = self._trainer.state.stateful_callbacks
        callbacks[STATE] = stands.to_json()
        if self._share is not None:
            # By where the schedule stands, not by whether the worker is done: how many threads compute decides the last bits.
            torch.set_num_threads(max(1, self._threads - (self._share if stands.refreshing is not None else 0)))
        if self._training_since is None:
            self._training_since = time.time(), time.monotonic()
        return guidance

    def told(self) -> dict[str, float]:
        """As `Schedule.told`."""
        return {} if self._schedule is None else self._schedule.told()

    def note_training(self) -> None:
        """Put the time since guidance was handed over, or since the last call, into the events, as training."""
        if self._training_since is not None:
            began, start = self._training_since
            self._report(SPENT, span("training", self.iteration, began, time.monotonic() - start))
            self._training_since = None

    def close(self) -> None:
        """Training is over, or has failed: no process is left behind."""
        self.note_training()
        if self._share is not None:
            torch.set_num_threads(self._threads)
            self._share = None
        if self._schedule is not None:
            self._schedule.close()
            self._schedule = None
            state = self._trainer.state
            if state.global_step >= state.max_steps and ranks.is_first():
                Snapshots(self._trainer.run_folder).clear()

    def _report(self, event: str, numbers: dict[str, Any]) -> None:
        self._trainer.progress.event(event, self._trainer.state.global_step, numbers)


def refresher_of(trainer: ConstrainedTrainer, corpus: Sequence[Evidence], features: CorpusFeatures | None) -> Refresher:
    """What makes guidance for a trainer, from its settings and labelled corpus rows."""
    config = trainer.config
    return Refresher(
        tokenizer=trainer.tokenizer,
        reference=trainer.reference,
        constraints=trainer.constraints,
        prompts=trainer.prompts,
        corpus=corpus,
        folder=trainer.run_folder,
        sampling=config.sampling,
        refresh=config.refresh,
        nado=config.nado,
        fitting=config.nado_fit,
        seed=config.seed,
        report=lambda event, numbers: trainer.progress.event(event, trainer.state.global_step, numbers),
        features=features,
    )


def _ray_executor(refresher: Refresher, trainer: ConstrainedTrainer) -> Executor:
    """Raises RecipeError when Ray is not installed."""
    require_ray()
    from adhere.guidance.ray import RayExecutor

    return RayExecutor(refresher, trainer.loaded_by, trainer.config.ray, trainer.config.refresh_timeout)
