"""The fused head in training: where it takes part, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adhere.models.head import HeadInput
from adhere.training.loss import LossSums, loss_sums
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """What the loss was given of the policy, one micro-batch after the other."""
    found: list[type] = []

    def watched(given: Any, *rest: Any, **keywords: Any) -> LossSums:
        found.append(type(given))
        return loss_sums(given, *rest, **keywords)

    monkeypatch.setattr("adhere.training.trainer.loss_sums", watched)
    return found


@pytest.mark.parametrize(("reference_kl", "near"), [(0.0, 2e-5), (0.2, 5e-3)])
def test_a_run_ends_where_it_would_have_ended_with_whole_logits(
    make_trainer: MakeTrainer,
    read: list[type],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference_kl: float,
    near: float,
) -> None:
    # The reference's whole logits are bfloat16 where the machine has it; of its hidden states they are made in float32.
    settings: dict[str, Any] = {"positions": "both", "gradient_accumulation_steps": 2, "max_steps": 3, "iterations": 1}
    settings["reference_kl"] = reference_kl
    fused = make_trainer(output_dir=str(tmp_path / "fused"), **settings)
    fused.train()
    assert set(read) == {HeadInput}
    monkeypatch.setattr("adhere.training.policy_pass.find_head", lambda _: None)
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    assert set(read[-3:]) == {torch.Tensor}
    for one, other in zip(fused.policy().parameters(), whole.policy().parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=near, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"anchor": "reference"}, {"anchor": "iteration"}], ids=str)
def test_whole_logits_are_read_where_something_else_is_compared_with_them(
    make_trainer: MakeTrainer, read: list[type], settings: dict[str, Any]
) -> None:
    make_trainer(max_steps=1, iterations=1, **settings).train()
    assert set(read) == {torch.Tensor}


@pytest.mark.parametrize("setting", ["fp16", "torch_compile"])
def test_neither_float16_nor_a_compiled_model_has_a_fused_head(
    make_trainer: MakeTrainer, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    monkeypatch.setattr(trainer.config, setting, True)
    assert trainer.policy_pass.head() is None


def test_the_head_is_sought_once(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, calls = make_trainer(), []
    monkeypatch.setattr("adhere.training.policy_pass.find_head", lambda policy: calls.append(policy))
    for _ in range(2):
        assert trainer.policy_pass.head() is None
    assert len(calls) == 1
