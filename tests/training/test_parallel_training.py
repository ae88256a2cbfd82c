"""Training with the parallel schedule: reproducible, resumable to the bit, and honest about how stale its guidance is."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from adhere.errors import RecipeError, RefreshError
from adhere.guidance.constraint import Constraint
from adhere.guidance.executors import InProcess
from adhere.guidance.refresh import Refresher, Request
from adhere.guidance.schedule import Schedule
from adhere.guidance.snapshots import Snapshots
from adhere.models.frozen import FrozenModel
from adhere.oracles.rules import RegexOracle
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]

EIGHT_STEPS = {
    "max_steps": 8, "iterations": 4, "save_steps": 1, "save_total_limit": 9, "schedule": "parallel", "logging_steps": 4,
}  # fmt: skip
LORA = LoraConfig(r=2, lora_dropout=0.2, target_modules="all-linear", task_type="CAUSAL_LM")


class Stop(BaseException):
    """A stop that no `except Exception` catches, as Ctrl-C is."""


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise Stop


class Late:
    """Makes guidance when it is asked for its result, from the snapshot: as a process that takes its time."""

    seconds = 1.0

    def __init__(self, refresher: Refresher) -> None:
        self._here = InProcess(refresher)
        self._folder = refresher.folder

    def submit(self, request: Request, policy: Any) -> Late:
        if not self.holds(request.iteration):
            Snapshots(self._folder).take(request, policy)
        self._request, self._policy = request, policy
        return self

    def done(self) -> bool:
        return False

    def result(self) -> Any:
        later = Request(self._request.iteration, self._request.policy_step, 10**6, self._request.previous)
        return self._here.submit(later, self._policy).result()

    def holds(self, iteration: int) -> bool:
        return self._here.holds(iteration)

    def close(self) -> None: ...


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, every_fit_is_taken_up: None) -> None:
    """Guidance is made late, here; and always that of the last epoch, so that none is that of a fresh NADO."""
    monkeypatch.setattr("adhere.training.refreshes.WorkerProcess", lambda refresher, *_: Late(refresher))


def _weights(trainer: ConstrainedTrainer) -> dict[str, torch.Tensor]:
    assert trainer.model is not None
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _events(trainer: ConstrainedTrainer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trainer.run_folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(
    "settings",
    [{}, {"anchor": "iteration", "positions": "both"}, {"peft_config": LORA, "anchor": "iteration"}],
    ids=["full", "iteration anchor, samples", "adapter"],
)
def test_a_parallel_run_stopped_while_a_refresh_is_under_way_goes_on_elsewhere_to_the_same_weights(
    make_trainer: MakeTrainer, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = make_trainer(**EIGHT_STEPS, **copy.deepcopy(settings), output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make_trainer(
        **EIGHT_STEPS, **copy.deepcopy(settings), output_dir=str(tmp_path / "stopped"), callbacks=[StopAfter(6)]
    )
    with pytest.raises(Stop):
        stopped.train()
    # Iterations begin at 0, 2, 4, 6: in the middle of the third, with the refresh of step 4 under way.
    checkpoint = tmp_path / "moved" / "checkpoint-5"
    shutil.copytree(tmp_path / "stopped" / "checkpoint-5", checkpoint)
    assert {path.relative_to(checkpoint / "adhere").as_posix() for path in checkpoint.glob("adhere/snapshots/*")} == {
        "snapshots/iteration-0002.safetensors"
    }
    resumed = make_trainer(**EIGHT_STEPS, **copy.deepcopy(settings), output_dir=str(tmp_path / "moved"))
    torch.rand(17)  # what a new process has drawn by then is not what this one had
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert _same(_weights(resumed), _weights(whole))
    for trainer in (whole, resumed):
        assert not list(trainer.run_folder.glob("snapshots/*"))  # nothing needs them any more
        assert not (trainer.run_folder / "guidance" / "iteration-0003").exists()  # nobody would have used it
    assert any(line.get("kl", 0) > 1e-4 for line in whole.state.log_history)


@pytest.mark.usefixtures("late")
def test_a_snapshot_holds_the_adapter_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**EIGHT_STEPS, peft_config=LORA, callbacks=[StopAfter(3)])
    with pytest.raises(Stop):
        trainer.train()
    names = load_file(trainer.run_folder / "snapshots" / "iteration-0001.safetensors").keys()
    assert names and all("lora" in name for name in names)


@pytest.mark.usefixtures("late")
def test_what_is_trained_with_does_not_depend_on_where_guidance_is_made(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    runs = {}
    for where in ("in-process", "worker"):
        runs[where] = make_trainer(**EIGHT_STEPS, executor=where, output_dir=str(tmp_path / where))
        runs[where].train()
    assert _same(_weights(runs["in-process"]), _weights(runs["worker"]))
    sequential = make_trainer(**{**EIGHT_STEPS, "schedule": "sequential"}, output_dir=str(tmp_path / "sequential"))
    sequential.train()
    assert not _same(_weights(sequential), _weights(runs["worker"]))


@pytest.mark.usefixtures("late")
def test_the_log_says_how_stale_guidance_is_and_which_policy_its_samples_are_of(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**EIGHT_STEPS)
    trainer.train()
    begun = [line for line in trainer.state.log_history if "staleness/steps" in line]
    assert [(line["step"], line["staleness/iterations"], line["staleness/steps"]) for line in begun] == [
        (0, 0.0, 0.0), (2, 1.0, 2.0), (4, 1.0, 2.0), (6, 1.0, 2.0),
    ]  # fmt: skip
    assert all(line["waited_seconds"] >= 0 for line in begun) and begun[2]["refresh_seconds"] > 0
    sampled = [(line["step"], line.get("policy_step", line["step"])) for line in begun if "satisfaction/no z" in line]
    assert sampled == [(0, 0), (4, 2.0), (6, 4.0)]
    spent = [event for event in _events(trainer) if event["event"] == "spent"]
    assert [(e["part"], e["iteration"]) for e in spent if e["part"] in ("training", "waiting")] == [
        (part, iteration) for iteration in range(4) for part in ("waiting", "training")
    ]
    assert [e["iteration"] for e in spent if e["part"] == "fitting"] == [0, 1, 2]


@pytest.mark.usefixtures("late")
def test_the_log_of_a_resumed_run_tells_each_thing_once(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    stopped = make_trainer(**EIGHT_STEPS, callbacks=[StopAfter(3)])
    with pytest.raises(Stop):
        stopped.train()
    resumed = make_trainer(**EIGHT_STEPS)
    resumed.train(resume_from_checkpoint=str(stopped.run_folder / "checkpoint-2"))  # at a boundary, nothing under way
    begun = [line["step"] for line in resumed.state.log_history if "staleness/steps" in line]
    sampled = [line["step"] for line in resumed.state.log_history if "satisfaction/no z" in line]
    assert (begun, sampled) == ([0, 2, 4, 6], [0, 4, 6])


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("first", "then"), [("sequential", "parallel"), ("parallel", "sequential")])
def test_a_run_may_go_on_by_the_other_schedule(make_trainer: MakeTrainer, first: str, then: str) -> None:
    stopped = make_trainer(**{**EIGHT_STEPS, "schedule": first}, callbacks=[StopAfter(4)])
    with pytest.raises(Stop):
        stopped.train()
    resumed = make_trainer(**{**EIGHT_STEPS, "schedule": then})
    resumed.train(resume_from_checkpoint=str(stopped.run_folder / "checkpoint-3"))
    assert resumed.state.global_step == 8
    made = sorted(path.name for path in (resumed.run_folder / "guidance").iterdir())
    kept = {"parallel": ["iteration-0000", "iteration-0001", "iteration-0002"],
            "sequential": ["iteration-0000", "iteration-0002", "iteration-0003"]}  # fmt: skip
    assert made == kept[then]
    stale = {
        line["step"]: line["staleness/iterations"] for line in resumed.state.log_history if "waited_seconds" in line
    }
    assert stale[6] == (1.0 if then == "parallel" else 0.0)


@pytest.mark.usefixtures("late")
def test_stale_samples_are_no_measurement_of_the_policy_as_it_is(make_trainer: MakeTrainer) -> None:
    dual = Constraint(RegexOracle("z"), name="no z", multiplier="dual", target=0.9)
    trainer = make_trainer(**EIGHT_STEPS, constraints=[dual], measure_every=3, measure_samples=4)
    trainer.train()
    measured = [event["step"] for event in _events(trainer) if event["event"] == "multiplier"]
    assert measured == [3, 6]  # by outputs of its own; the samples of refreshes came at 4 and 6
    assert sorted(path.name[:11] for path in (trainer.run_folder / "measurements").iterdir()) == [
        "end-000008-", "step-000003", "step-000006",
    ]  # fmt: skip


def test_a_run_whose_guidance_fails_too_often_stops_with_a_checkpoint_and_goes_on_from_there(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = True

    class Breaks(Late):
        def done(self) -> bool:
            return broken and self._request.iteration == 1

        def result(self) -> Any:
            if self.done():
                raise RefreshError("the worker was ended by signal 9")
            return super().result()

    monkeypatch.setattr("adhere.training.refreshes.WorkerProcess", lambda refresher, *_: Breaks(refresher))
    monkeypatch.setattr("adhere.guidance.attempts.FIRST_PAUSE", 0.0)
    settings = {**EIGHT_STEPS, "save_steps": 100, "max_steps": 16, "max_failures": 2}
    stopped = make_trainer(**settings)
    with pytest.raises(RefreshError, match=r"it failed 2 times in a row .*ended by signal 9.*--resume"):
        stopped.train()
    # The second iteration begins at 4: polled at 5, begun again at 6, polled at 7.
    assert sorted(path.name for path in stopped.run_folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-7"]
    failed = [event for event in _events(stopped) if event["event"] == "refresh failed"]
    assert [event["failure"] for event in failed] == [1, 2]
    broken = False
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    whole = make_trainer(**settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    assert _same(_weights(resumed), _weights(whole))


def test_an_oracle_that_cannot_go_to_a_worker_is_refused_before_anything_is_drawn(make_trainer: MakeTrainer) -> None:
    oracle = RegexOracle("z")
    oracle.lock = __import__("threading").Lock()  # type: ignore[attr-defined]
    trainer = make_trainer(**EIGHT_STEPS, constraints=[Constraint(oracle)])
    with pytest.raises(RecipeError, match="cannot be sent to another process"):
        trainer.train()
    assert not list(trainer.run_folder.glob("labels/*")) and not list(trainer.run_folder.glob("samples/*"))


def test_a_worker_process_trains_to_the_same_weights_as_this_process_and_leaves_nobody_behind(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """The real thing: a process that samples an adapter's snapshots."""
    here = make_trainer(**EIGHT_STEPS, peft_config=copy.deepcopy(LORA), executor="in-process")
    here.train()
    there = make_trainer(**EIGHT_STEPS, peft_config=copy.deepcopy(LORA), output_dir=str(tmp_path / "there"))
    schedules: list[Schedule] = []
    make = there.refreshes.make
    there.refreshes.make = lambda refresher: schedules.append(make(refresher)) or schedules[0]  # type: ignore[func-returns-value,method-assign]
    there.train()
    assert schedules[0]._executor.pid is None  # type: ignore[attr-defined]
    meanwhile = [event for event in _events(there) if event.get("meanwhile")]
    assert {event["event"] for event in _events(there)} >= {"schedule", "sampled", "judged", "fitted", "spent"}
    assert all(event["event"] != "refresh failed" for event in [*meanwhile, *_events(there)])
    assert _same(_weights(there), _weights(here))


def test_the_reference_of_a_worker_is_the_model_before_any_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    from adhere.guidance.portable import PortableModel

    for settings in ({}, {"peft_config": copy.deepcopy(LORA)}):
        trainer = make_trainer(**settings)
        with torch.no_grad():
            for weight in trainer.policy().parameters():
                if weight.requires_grad:
                    weight.add_(1.0)
        file = tmp_path / "worker.safetensors"
        again = PortableModel.of(trainer.reference, trainer.loaded_by, trainer.args.seed, file).build()
        assert FrozenModel(again).digest() == trainer.reference.digest()
