"""A step that went wrong does not reach the weights; a run that skips it is one that stops at it and is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adhere.digests import broken
from adhere.errors import HealthError, RecipeError
from adhere.training.faulty_steps import read_step
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]

ACCUMULATED = {"max_steps": 5, "iterations": 1, "gradient_accumulation_steps": 2, "save_steps": 100}


def _weights(trainer: ConstrainedTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.policy().state_dict().items()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def _faults(trainer: ConstrainedTrainer) -> list[dict[str, Any]]:
    lines = (trainer.run_folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "fault"]


def _spoil(trainer: ConstrainedTrainer, steps: tuple[int, ...], spoilt: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The first micro-batch of these steps (from 1) has another loss than it should."""
    compute = trainer.compute_loss
    number = 0

    def spoiling(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        nonlocal number
        loss = compute(model, inputs, return_outputs, num_items_in_batch)
        first = number % 2 == 0
        number += 1
        return spoilt(loss) if first and trainer.state.global_step + 1 in steps else loss

    trainer.compute_loss = spoiling  # type: ignore[method-assign]


def _nan(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def _endless_gradient(loss: torch.Tensor) -> torch.Tensor:
    """A finite loss, 0 more than it was, whose gradient is not."""
    extra = (loss - loss.detach()).clamp_min(0.0)
    return loss + torch.sqrt(extra) * 0 + torch.sqrt(extra)


@pytest.mark.parametrize(("spoilt", "said"), [(_nan, "the loss is nan"), (_endless_gradient, "its gradient is")])
def test_a_step_that_is_not_finite_is_skipped_and_leaves_weights_and_optimiser_as_they_were(
    make_trainer: MakeTrainer, spoilt: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    trainer = make_trainer(**ACCUMULATED)
    _spoil(trainer, (3,), spoilt)
    seen: list[tuple[dict[str, torch.Tensor], Any]] = []

    class Watches(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            state = {
                key: {name: value.clone() for name, value in entry.items()}
                for key, entry in trainer.optimizer.state_dict()["state"].items()
            }
            seen.append((_weights(trainer), state))

    trainer.add_callback(Watches())
    trainer.train()
    assert trainer.state.global_step == 5
    assert _same(seen[1][0], seen[2][0])
    assert not _same(seen[0][0], seen[1][0]) and not _same(seen[2][0], seen[3][0])
    before, after = seen[1][1], seen[2][1]
    assert all(torch.equal(before[key][name], after[key][name]) for key in before for name in before[key])
    assert all(bool(weight.isfinite().all()) for weight in _weights(trainer).values())
    (event,) = _faults(trainer)
    assert (event["fault"], event["policy"], event["step"]) == ("non_finite", "skip", 3)
    assert said in event["sentence"] and event["batch"] == "faults/step-000003"


def test_the_batch_of_a_fault_is_whole_on_disk_and_can_be_replayed(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**{**ACCUMULATED, "save_steps": 4}, health={"exploding_kl": "warn", "max_kl": 1e-6})
    lost: list[float] = []
    compute = trainer.compute_loss

    def remembering(*arguments: Any, **keywords: Any) -> Any:
        loss = compute(*arguments, **keywords)
        lost.append(float(loss.detach()))
        return loss

    trainer.compute_loss = remembering  # type: ignore[method-assign]
    trainer.train()
    assert [event["step"] for event in _faults(trainer)] == [1, 2, 3, 4, 5]
    fault, batches = read_step(trainer.run_folder / "faults" / "step-000005")
    assert fault.losses == pytest.approx(lost[-2:])
    assert fault.guidance == (0, 0)
    assert fault.rows == [batch["row"].tolist() for batch in batches]
    assert {row for rows in fault.rows for row in rows} <= set(range(12))
    again = make_trainer(**ACCUMULATED)  # with the weights before that step: the very loss it had
    again.guidance, again._counts = trainer.guidance, fault.counts or (1.0, 1.0)
    again.policy().load_state_dict(load_file(trainer.run_folder / "checkpoint-4" / "model.safetensors"), strict=False)
    again.policy().train()
    replayed = [float(again.compute_loss(again.model, dict(batch)).detach()) for batch in batches]
    assert replayed == pytest.approx(list(fault.losses), rel=1e-5)


def test_a_run_that_stops_at_a_fault_goes_on_to_the_weights_of_one_that_skips_it(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    skipping = make_trainer(**ACCUMULATED, output_dir=str(tmp_path / "skips"))
    _spoil(skipping, (3,), _nan)
    skipping.train()
    settings = {**ACCUMULATED, "output_dir": str(tmp_path / "stops"), "health": {"non_finite": "stop"}}
    stopping = make_trainer(**settings)
    _spoil(stopping, (3,), _nan)
    with pytest.raises(HealthError, match=r"step 3: the loss is nan; the step was not taken.*checkpoint-3 .*--resume"):
        stopping.train()
    checkpoint = tmp_path / "stops" / "checkpoint-3"
    assert broken(checkpoint) == {}  # sealed, with what a resume needs
    assert (checkpoint / "adhere" / "guidance" / "iteration-0000" / "guidance.json").exists()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    assert _same(_weights(resumed), _weights(skipping))


@pytest.mark.parametrize("clipped", [1.0, 0.0])
def test_the_gradients_are_read_for_their_norm_once_a_step(
    clipped: float, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("a second pass over all gradients")

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", again)  # transformers has its own name for it
    trainer = make_trainer(**ACCUMULATED, max_grad_norm=clipped)
    trainer.train()
    assert not _faults(trainer)


def test_skipping_has_an_end(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**ACCUMULATED, health={"skips_in_a_row": 2})
    _spoil(trainer, (2, 3, 4), _nan)
    with pytest.raises(HealthError, match=r"step 4: .*By now 3 steps in a row"):
        trainer.train()
    assert [event["policy"] for event in _faults(trainer)] == ["skip", "skip", "stop"]


def test_skips_with_good_steps_between_them_go_on(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**ACCUMULATED, health={"skips_in_a_row": 1})
    _spoil(trainer, (1, 3, 5), _nan)
    trainer.train()
    assert [event["step"] for event in _faults(trainer)] == [1, 3, 5]


def test_a_kl_that_explodes_is_skipped_or_told_and_a_healthy_run_says_nothing(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    weights = {}
    for policy in ("skip", "warn", "none"):
        settings = {**ACCUMULATED, "max_steps": 3, "output_dir": str(tmp_path / policy)}
        trainer = make_trainer(**settings, health={} if policy == "none" else {"exploding_kl": policy, "max_kl": 2.0})
        _explode(trainer, at=2 if policy != "none" else 0)
        trainer.train()
        told = [(event["step"], event["fault"], event["policy"]) for event in _faults(trainer)]
        assert told == ([] if policy == "none" else [(2, "exploding_kl", policy)])
        weights[policy] = _weights(trainer)
    assert not (tmp_path / "none" / "faults").exists()
    assert _same(weights["warn"], weights["none"]) and not _same(weights["skip"], weights["none"])


def _explode(trainer: ConstrainedTrainer, at: int) -> None:
    note = trainer.note_kl

    def exploding(kl: torch.Tensor) -> None:
        note(kl + 5.0 * (trainer.state.global_step + 1 == at))

    trainer.note_kl = exploding  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "settings", [{"non_finite": "warn"}, {"max_kl": 0.0}, {"collapsed_outputs": "skip"}, {"nan": "stop"}]
)
def test_a_policy_that_cannot_be_is_refused(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RecipeError)):
        make_trainer(health=settings)
