"""What a run tells while it trains: progress for the person, the time it took for the tables."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere.files import write_json_atomic
from adhere.recipe.progress import Progress
from adhere.training.progress_log import ProgressLog

CLOCK = "clock.json"


class StepsTold(TrainerCallback):
    """Tells progress after every step, and keeps the seconds of training over interruptions.

    Args:
        stage: what the steps are called.
        folder: the run folder, where `clock.json` holds the seconds at every checkpoint.
        progress: who is told.
    """

    def __init__(self, stage: str, folder: Path, progress: Progress) -> None:
        self._stage, self._folder, self._progress = stage, folder, progress
        self._before, self._start = 0.0, time.monotonic()
        self._at: dict[str, float] = {}
        self._note = ""

    @property
    def seconds(self) -> float:
        """Seconds of training so far; what was lost to a crash and done again counts once."""
        return self._before + time.monotonic() - self._start

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step:
            self._at = _read_clock(self._folder)
            self._before = self._at.get(str(state.global_step), 0.0)
        self._start = time.monotonic()
        self._progress(self._stage, state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        told = logs or {}
        shown = [f"loss {float(told['loss']):.3f}"] if "loss" in told else []
        shown += [f"KL {float(told['kl']):.3f}"] if "kl" in told else []
        self._note = ", ".join(shown) or self._note

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._progress(self._stage, state.global_step, state.max_steps, self._note)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._at[str(state.global_step)] = self.seconds
        write_json_atomic(self._folder / CLOCK, self._at)


def _read_clock(folder: Path) -> dict[str, float]:
    try:
        return {str(step): float(seconds) for step, seconds in json.loads((folder / CLOCK).read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


class EventsTold(ProgressLog):
    """The trainer's own log, that tells of the parts of a refresh as well."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        super().__init__(folder)
        self._tell = progress

    def event(self, name: str, step: int, numbers: dict[str, Any]) -> None:
        """Put one event on disk, and tell it."""
        super().event(name, step, numbers)
        if name == "sampled":
            speed = f"{numbers['tokens_per_second']:,.0f} tokens/s"
            self._tell("sampling for guidance", numbers["batch"], numbers["batches"], speed)
        elif name == "labelled":
            self._tell("reading samples and corpus", 0, 0)
        elif name == "read":
            self._tell("fitting guidance", 0, 0)
        elif name == "fitted":
            self._tell("fitting guidance", 1, 1, f"AUC {numbers['auc']:.3f}")
