"""DPO by TRL's trainer, on the very tokens that were drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl")

from adhere.baselines.config import PreferenceConfig
from adhere.baselines.pairs import Pair
from adhere.baselines.preference import PairCollator, preference_arguments, preference_trainer
from adhere.models.policy import ModelConfig, Policy, load_policy

PAIRS = [Pair((19, 7), (4, 26, 31), (5, 5)), Pair((2,), (8,), (9, 10, 31))]
ROWS = [
    {"ids_of_prompt": pair.prompt_ids, "ids_chosen": pair.chosen_ids, "ids_rejected": pair.rejected_ids}
    for pair in PAIRS
]


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 8, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
        "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False, "logging_steps": 1, "save_strategy": "no",
        "activation_checkpointing": False, "dataloader_pin_memory": False, "seed": 3,
    }  # fmt: skip


def _log_p(policy: Policy, prompt: tuple[int, ...], output: tuple[int, ...]) -> Tensor:
    ids = torch.tensor([[*prompt, *output]])
    with torch.no_grad():
        log_p = policy.model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return log_p.gather(1, torch.tensor(output)[:, None]).sum()


def test_a_batch_holds_the_chosen_outputs_and_then_the_rejected_ones_as_they_were_drawn() -> None:
    batch = PairCollator(0)(ROWS)
    assert batch["input_ids"].tolist() == [[19, 7, 4, 26, 31], [2, 8, 0, 0, 0], [19, 7, 5, 5, 0], [2, 9, 10, 31, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0]]


def test_the_first_loss_is_that_of_equal_rewards_and_then_the_chosen_outputs_gain(
    tiny_policy_folder: Path, tmp_path: Path
) -> None:
    policy = load_policy(ModelConfig(path=str(tiny_policy_folder)))
    before = [_log_p(policy, p.prompt_ids, p.chosen_ids) - _log_p(policy, p.prompt_ids, p.rejected_ids) for p in PAIRS]
    arguments = preference_arguments(_settings(tmp_path), PreferenceConfig(learning_rate=1e-2, beta=0.3))
    assert (arguments.beta, arguments.learning_rate, arguments.gradient_checkpointing) == (0.3, 1e-2, False)
    trainer = preference_trainer(policy, arguments, PAIRS, [])
    chosen = sum(float(_log_p(policy, p.prompt_ids, p.chosen_ids)) for p in PAIRS) / 2
    trainer.train()
    told = [line for line in trainer.state.log_history if "loss" in line]
    assert told[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # log 2: the model is its own reference
    assert told[0]["logps/chosen"] == pytest.approx(chosen, abs=1e-3)  # of the tokens drawn, no EOS added
    policy.model.eval()
    after = [_log_p(policy, p.prompt_ids, p.chosen_ids) - _log_p(policy, p.prompt_ids, p.rejected_ids) for p in PAIRS]
    assert all(now > then + 0.5 for now, then in zip(after, before, strict=True))
    assert not (tmp_path / "README.md").exists()
