"""A run that was stopped in the middle of an iteration goes on to the very same weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from adhere.errors import RunFolderError
from adhere.guidance.guidance import Guidance
from adhere.training.trainer import ConstrainedTrainer

pytestmark = pytest.mark.usefixtures("every_fit_is_taken_up")

MakeTrainer = Callable[..., ConstrainedTrainer]

SIX_STEPS = {"max_steps": 6, "iterations": 3, "save_steps": 3, "save_total_limit": 8}
RUNS: dict[str, dict[str, Any]] = {
    "full": {},
    "adapter": {"peft_config": LoraConfig(r=2, lora_dropout=0.2, target_modules="all-linear", task_type="CAUSAL_LM")},
    "iteration anchor, samples, accumulated": {
        "anchor": "iteration", "positions": "both", "gradient_accumulation_steps": 2, "violating_rows": "tilt",
    },
    "adapter, iteration anchor": {
        "peft_config": LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"), "anchor": "iteration",
        "positions": "samples",
    },
}  # fmt: skip


class Stop(BaseException):
    """A stop that no `except Exception` catches, as Ctrl-C is."""


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise Stop


def _weights(trainer: ConstrainedTrainer) -> dict[str, torch.Tensor]:
    assert trainer.model is not None
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def _guidance(trainer: ConstrainedTrainer, iteration: int) -> dict[str, torch.Tensor]:
    return load_file(trainer.run_folder / "guidance" / f"iteration-{iteration:04d}" / "nado.safetensors")


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_a_resumed_run_ends_with_the_same_weights_to_the_bit(
    make_trainer: MakeTrainer, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = make_trainer(**SIX_STEPS, **settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make_trainer(**SIX_STEPS, **settings, output_dir=str(tmp_path / "stopped"), callbacks=[StopAfter(4)])
    with pytest.raises(Stop):
        stopped.train()
    checkpoint = tmp_path / "stopped" / "checkpoint-3"  # iterations begin at 0, 2, 4: in the middle of the second
    resumed = make_trainer(**SIX_STEPS, **settings, output_dir=str(tmp_path / "stopped"))
    torch.rand(17)  # what a new process has drawn by then is not what this one had
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert _same(_weights(resumed), _weights(whole))
    for iteration in range(3):
        assert _same(_guidance(resumed, iteration), _guidance(whole, iteration))
    assert not _same(_guidance(whole, 0), _guidance(whole, 2))  # there was something to carry over
    assert any(line.get("kl", 0) > 1e-4 for line in whole.state.log_history)


def test_the_log_of_a_resumed_run_tells_each_thing_once_and_the_same(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    settings = {**SIX_STEPS, "logging_steps": 3}
    whole = make_trainer(**settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make_trainer(**settings, output_dir=str(tmp_path / "stopped"), callbacks=[StopAfter(4)])
    with pytest.raises(Stop):
        stopped.train()
    resumed = make_trainer(**settings, output_dir=str(tmp_path / "stopped"))
    resumed.train(resume_from_checkpoint=True)
    for keys in (("corpus_loss", "kl", "kl/no z"), ("iteration", "satisfaction/no z", "nado/no z/auc")):
        told = [
            [(line["step"], *(line[key] for key in keys)) for line in trainer.state.log_history if keys[0] in line]
            for trainer in (whole, resumed)
        ]
        assert told[0] == told[1] and len(told[0]) in (2, 3)


def test_guidance_that_was_lost_is_not_made_up(make_trainer: MakeTrainer) -> None:
    stopped = make_trainer(**SIX_STEPS, callbacks=[StopAfter(4)])
    with pytest.raises(Stop):
        stopped.train()
    folder = stopped.run_folder / "guidance" / "iteration-0001"
    assert Guidance.exists(folder)
    folder.rename(folder.with_name("elsewhere"))
    shutil.rmtree(stopped.run_folder / "checkpoint-3" / "adhere")  # and so is the copy beside the checkpoint
    with pytest.raises(
        RunFolderError, match=r"iteration-0001 is missing, and the policy has moved on from step 2 to 3"
    ):
        make_trainer(**SIX_STEPS).train(resume_from_checkpoint=str(stopped.run_folder / "checkpoint-3"))


def test_from_a_checkpoint_at_a_boundary_the_refresh_that_was_cut_off_is_done(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_trainer(**SIX_STEPS, output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make_trainer(**SIX_STEPS, output_dir=str(tmp_path / "stopped"))
    save = Guidance.save

    def stops(guidance: Guidance, folder: Path, *made_of: Any) -> None:
        if guidance.version.iteration == 1:
            raise Stop
        save(guidance, folder, *made_of)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(Guidance, "save", stops)
        stopped.train()
    resumed = make_trainer(**SIX_STEPS, output_dir=str(tmp_path / "stopped"))
    resumed.train(resume_from_checkpoint=True)
    assert _same(_weights(resumed), _weights(whole))
    assert _same(_guidance(resumed, 1), _guidance(whole, 1))
