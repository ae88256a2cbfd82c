"""A run that was killed after its last checkpoint and before its model was saved takes no step more."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from adhere.data.collation import ConstrainedCollator
from adhere.training.last_step import EndsAtLastStep
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]


@pytest.mark.parametrize("method", ["constrained", "plain"])
@pytest.mark.parametrize("steps", [4, 5], ids=["at an epoch's end", "in an epoch's middle"])
def test_resumed_from_its_last_checkpoint_a_run_is_over(
    make_trainer: MakeTrainer, tiny_model: LlamaForCausalLM, tmp_path: Path, method: str, steps: int
) -> None:
    def new() -> Trainer:
        trainer = make_trainer(max_steps=steps, iterations=1, lr_scheduler_type="constant")
        if method == "constrained":
            return trainer
        collate = ConstrainedCollator(trainer.tokenizer)

        def batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            whole = collate(rows)
            return {name: whole[name] for name in ("input_ids", "attention_mask", "labels")}

        settings: dict[str, Any] = {
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 3,
            "learning_rate": 1e-2,
        }
        args = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=steps,
            use_cpu=True,
            report_to="none",
            remove_unused_columns=False,
            **settings,
        )
        rows = trainer.train_dataset
        return EndsAtLastStep(copy.deepcopy(tiny_model), args, train_dataset=rows, data_collator=batch)

    whole, resumed = new(), new()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{steps}"))
    assert resumed.state.global_step == steps
    assert whole.model is not None and resumed.model is not None
    after = dict(resumed.model.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in whole.model.named_parameters())
