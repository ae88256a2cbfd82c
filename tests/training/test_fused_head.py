"""The choice between torch and Triton in the fused head: where it goes, and that it is refused before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adhere.errors import RecipeError
from adhere.functional.fused import FusedLoss, constrained_cross_entropy
from adhere.training import fused_head
from adhere.training.config import ConstrainedConfig
from adhere.training.fused_head import check_fused_head
from adhere.training.trainer import ConstrainedTrainer


def test_torch_can_always_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_head, "find_spec", lambda _: None)
    check_fused_head("torch", "cpu")


@pytest.mark.parametrize(
    ("device", "installed", "lacking"),
    [
        ("cpu", True, r"an NVIDIA GPU \(training runs on 'cpu' here\)"),
        ("cuda", False, r"the package triton \(pip install triton\)"),
        ("mps", False, r"an NVIDIA GPU \(training runs on 'mps' here\) and the package triton \(pip install triton\)"),
    ],
)
def test_triton_needs_a_gpu_and_its_package(
    monkeypatch: pytest.MonkeyPatch, device: str, installed: bool, lacking: str
) -> None:
    monkeypatch.setattr(fused_head, "find_spec", lambda _: "there" if installed else None)
    with pytest.raises(RecipeError, match=rf"^training.fused_head: triton needs {lacking}; leave the setting out"):
        check_fused_head("triton", device)


def test_triton_is_had_where_both_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_head, "find_spec", lambda _: "there")
    check_fused_head("triton", "cuda")


def test_the_settings_of_a_run_are_refused_where_it_cannot_be_had(
    make_config: Callable[..., ConstrainedConfig],
) -> None:
    assert make_config().fused_head == "torch"
    with pytest.raises(RecipeError, match=r"triton needs an NVIDIA GPU"):
        make_config(fused_head="triton")
    with pytest.raises(RecipeError, match=r"fused_head must be one of torch, triton; got 'cuda'"):
        make_config(fused_head="cuda")


@pytest.mark.parametrize("choice", ["torch", "triton"])
def test_the_head_is_computed_as_chosen(
    make_trainer: Callable[..., ConstrainedTrainer], monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    asked: list[bool] = []

    def watched(*arguments: Any) -> FusedLoss:
        asked.append(arguments[-1])
        return constrained_cross_entropy(*arguments[:-1])

    monkeypatch.setattr("adhere.training.fused_parts.constrained_cross_entropy", watched)
    trainer = make_trainer(max_steps=1, iterations=1)
    monkeypatch.setattr(trainer.config, "fused_head", choice)
    trainer.train()
    assert set(asked) == {choice == "triton"}
