"""Steps and trained tokens are counted where they are taken, by any trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, Trainer, TrainerControl, TrainerState, TrainingArguments

from adhere.costs import Ledger, read_costs
from adhere.models.frozen import FrozenModel
from adhere.training.step_costs import StepCosts
from adhere.training.trainer import ConstrainedTrainer

ROWS = [
    {"input_ids": [1, 2, 3], "length": 3},
    {"input_ids": [4, 5], "length": 2},
    {"input_ids": [6, 7, 8, 9], "length": 4},
]


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(row["length"] for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - row["length"]) for row in rows])
    mask = torch.tensor([[1] * row["length"] + [0] * (width - row["length"]) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids}


def _train(model: LlamaForCausalLM, folder: Path, **settings: Any) -> None:
    arguments: dict[str, Any] = {
        "output_dir": str(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False,
        "dataloader_pin_memory": False, "num_train_epochs": 1, "per_device_train_batch_size": 2, "save_strategy": "no",
    }  # fmt: skip
    Trainer(
        model, TrainingArguments(**{**arguments, **settings}), _collate, ROWS, callbacks=[StepCosts(folder, "sft")]
    ).train()


def test_tokens_are_those_that_were_not_padding(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    _train(tiny_model, tmp_path)
    costs = read_costs(tmp_path)
    assert (costs.optimizer_steps, costs.trained_tokens) == (2, 9)
    assert costs.train_seconds > 0


def test_micro_batches_of_a_step_are_added(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    _train(tiny_model, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=3)
    costs = read_costs(tmp_path)
    assert (costs.optimizer_steps, costs.trained_tokens) == (1, 9)


def test_the_model_is_left_without_a_hook(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    _train(tiny_model, tmp_path)
    assert not tiny_model._forward_pre_hooks


def test_what_passes_without_gradient_or_through_a_copy_is_not_counted(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    costs = StepCosts(tmp_path, "sft")
    now: Any = (TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(global_step=1), TrainerControl())
    costs.on_train_begin(*now, model=tiny_model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        tiny_model(input_ids=ids)
    with FrozenModel(tiny_model).lent() as still:
        still(input_ids=ids)
    tiny_model(input_ids=ids)
    costs.on_step_end(*now)
    assert Ledger(tmp_path).total().trained_tokens == 3


def test_a_constrained_run_states_its_costs_by_itself(
    make_trainer: Callable[..., ConstrainedTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer()
    trainer.train()
    costs = read_costs(trainer.run_folder)
    labelled = [sample.sample for iteration in (0, 1) for sample in _labelled(trainer, iteration)]
    assert costs.generated_outputs == len(labelled) == 16
    assert costs.generated_tokens == sum(len(sample.output_ids) for sample in labelled)
    assert costs.oracle_calls == 16 + 12  # the samples, and every row of the corpus
    assert costs.optimizer_steps == 4
    assert costs.no_verdict == 0
    assert costs.prefix_scores > 0
    assert costs.trained_tokens > 4 * 3 * 5


def _labelled(trainer: ConstrainedTrainer, iteration: int) -> list[Any]:
    from adhere.data.sample_store import SampleStore

    return list(SampleStore(trainer.run_folder).labelled(iteration))
