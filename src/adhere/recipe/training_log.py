"""What a run tells the person while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere.recipe.progress import Progress
from adhere.training.progress_log import ProgressLog

_SHOWN = {"kl": "KL", "reward": "reward", "rewards/accuracies": "pairs won"}


class StepsTold(TrainerCallback):
    """Tells progress after every step.

    Args:
        stage: what the steps are called.
        progress: who is told.
    """

    def __init__(self, stage: str, progress: Progress) -> None:
        self._stage, self._progress = stage, progress
        self._note = ""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
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
        shown += [f"{word} {float(told[key]):.3f}" for key, word in _SHOWN.items() if told.get(key) is not None]
        self._note = ", ".join(shown) or self._note

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._progress(self._stage, state.global_step, state.max_steps, self._note)


class EventsTold(ProgressLog):
    """The trainer's own log, that tells of the parts of a refresh as well.

    Args:
        folder: the run folder.
        progress: who is told.
        purpose: what outputs are sampled for.
    """

    def __init__(self, folder: Path, progress: Progress, purpose: str = "guidance") -> None:
        super().__init__(folder)
        self._tell, self._purpose = progress, purpose

    def event(self, name: str, step: int, numbers: dict[str, Any]) -> None:
        """Put one event on disk, and tell it."""
        super().event(name, step, numbers)
        if name == "refresh failed":
            again = f"; again in {numbers['again_in_seconds']:.0f} s" if "again_in_seconds" in numbers else ""
            self._tell(f"guidance {numbers['iteration']} failed: {numbers['why']}{again}", 0, 0)
        elif name == "goes on with the last guidance":
            self._tell(f"guidance {numbers['iteration']} is not there: training goes on with {numbers['with']}", 0, 0)
        elif numbers.get("meanwhile"):
            return  # the model is trained meanwhile: that is what is shown
        elif name == "sampled":
            speed = f"{numbers['tokens_per_second']:,.0f} tokens/s"
            self._tell(f"sampling for {self._purpose}", numbers["batch"], numbers["batches"], speed)
        elif name == "measuring":
            speed = f"{numbers['tokens_per_second']:,.0f} tokens/s"
            self._tell("measuring satisfaction", numbers["batch"], numbers["batches"], speed)
        elif name in ("given up", "target", "fault"):
            self._tell(numbers["sentence"], 0, 0)
        elif name == "judged":
            self._tell("judging outputs", numbers["batch"], numbers["batches"])
        elif name == "labelled":
            self._tell("reading samples and corpus", 0, 0)
        elif name == "read":
            self._tell("fitting guidance", 0, 0)
        elif name == "idle":
            self._tell(
                f"constraint {numbers['constraint']}: nothing violates it so far, so it acts on nothing yet", 0, 0
            )
        elif name == "fitted":
            self._tell("fitting guidance", 1, 1, f"AUC {numbers['auc']:.3f}")
