"""Counts what training steps cost, for any Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adhere import ranks
from adhere.costs import Ledger


class StepCosts(TrainerCallback):
    """Notes every optimiser step with its seconds, and the tokens that went through the model with gradient.

    Args:
        folder: the run folder.
        stage: what the steps are called: a run may train in more than one stage.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._ledger, self._stage = Ledger(folder), stage
        self._tokens: list[torch.Tensor] = []  # on the model's device: to read them at once would wait for it
        self._since = time.monotonic()
        self._hook: RemovableHandle | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        if model is not None and self._hook is None:
            self._hook = model.register_forward_pre_hook(_counting_into(self._tokens), with_kwargs=True)
        self._tokens.clear()
        self._since = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        tokens = ranks.on_each(lambda: sum(int(tokens) for tokens in self._tokens))
        self._ledger.record(
            f"{self._stage} step {state.global_step}",
            optimizer_steps=1,
            trained_tokens=sum(tokens),
            train_seconds=round(now - self._since, 4),
        )
        self._tokens.clear()
        self._since = now

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ledger.write()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._ledger.write()


def _counting_into(tokens: list[torch.Tensor]) -> Callable[..., None]:
    """A hook that is a plain function: copies of the model made while it is there share it, and run without gradient."""

    def count(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            mask = keywords.get("attention_mask")
            ids = keywords.get("input_ids")
            if mask is not None:
                tokens.append(mask.detach().sum())
            elif ids is not None:
                tokens.append(torch.tensor(ids.numel()))

    return count
