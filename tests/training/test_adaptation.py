"""A trainer that finds λ: when it measures, on what, what it writes, when it stops."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from adhere.data.sample_store import SampleStore
from adhere.guidance.constraint import Constraint
from adhere.oracles.rules import RegexOracle
from adhere.training.adaptation import STATE, TARGETS
from adhere.training.multiplier import MultiplierState, updated
from adhere.training.satisfaction import Satisfaction, measure
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]

STEPS = {"max_steps": 6, "measure_every": 1, "measure_samples": 8}  # iterations begin at 0 and 3


def _dual(target: float = 0.9, **settings: Any) -> Constraint:
    return Constraint(RegexOracle("z"), target, weight=2.0, name="no z", multiplier="dual", **settings)


def _events(trainer: ConstrainedTrainer, name: str) -> list[dict[str, Any]]:
    lines = (trainer.run_folder / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == name]


def _logged(trainer: ConstrainedTrainer, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in trainer.state.log_history if key in line}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Shares that measurements give, in turn, whatever was drawn; the last one from then on."""
    shares = [0.5]

    def told(*_: Any, **__: Any) -> Satisfaction:
        return Satisfaction(shares.pop(0) if len(shares) > 1 else shares[0], 200)

    monkeypatch.setattr("adhere.training.adaptation.measure", told)
    return shares


def test_every_measurement_is_on_disk_in_the_log_and_moves_the_multiplier(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(constraints=[_dual()], **STEPS)
    trainer.train()
    path = _logged(trainer, "multiplier/no z")
    assert list(path) == [0, 1, 2, 3, 4, 5] and path[0] == pytest.approx(2.0)
    assert _logged(trainer, "target/no z") == dict.fromkeys(path, 0.9)
    folders = sorted((trainer.run_folder / "measurements").iterdir())
    assert [folder.name[:11] for folder in folders] == ["end-000006-", *(f"step-00000{step}" for step in (1, 2, 4, 5))]
    events = _events(trainer, "multiplier")
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5]
    assert len(SampleStore(folders[0]).labelled(0)) == 4 * 8
    stores = {int(folder.name[5:11]): SampleStore(folder).labelled(0) for folder in folders[1:]}
    stores[3] = SampleStore(trainer.run_folder).labelled(1)  # those of the refresh are the measurement there
    for event in events:
        samples = stores[event["step"]]
        found = measure("no z", samples)
        assert len(samples) == 8 and found is not None
        assert event["satisfaction"] == found.share == _logged(trainer, "satisfaction/no z")[event["step"]]
        assert event["multiplier"] == path[event["step"]]
        share = path[event["step"]] / path[event["step"] - 1]
        assert share != 1.0
    drawn = [tuple(s.sample.output for s in samples) for samples in stores.values()]
    assert len(set(drawn)) == len(drawn)


def test_the_multiplier_of_the_log_is_the_one_that_the_loss_has(
    make_trainer: MakeTrainer, no_z: Constraint, tmp_path: Path, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adhere.training import trainer as module

    seen: list[float] = []
    original = module.loss_sums

    def watched(*arguments: Any, rows: Any, **keywords: Any) -> Any:
        seen.append(float(rows.multiplier_B["no z"][0]))
        assert arguments[3][0].tilt_target == 1.0
        return original(*arguments, rows=rows, **keywords)

    monkeypatch.setattr("adhere.training.trainer.loss_sums", watched)
    measured[:] = [0.5, 0.8, 0.99, 1.0]
    trainer = make_trainer(constraints=[_dual()], **STEPS)
    trainer.train()
    path = _logged(trainer, "multiplier/no z")
    assert seen == pytest.approx([path[step] for step in range(6)])
    assert min(path[1], path[2]) > path[0] and path[5] < path[4] < path[3] < path[2]


def test_the_multiplier_knows_how_many_steps_lie_between_measurements(
    make_trainer: MakeTrainer, measured: list[float]
) -> None:
    constraint = _dual()
    trainer = make_trainer(constraints=[constraint], max_steps=6, iterations=1, measure_every=2, measure_samples=8)
    measured[:] = [0.5, 0.8]
    trainer.train()
    state, path = MultiplierState.start(constraint.weight), {0: pytest.approx(2.0)}
    for step, share in ((2, 0.5), (4, 0.8)):
        state = updated(state, Satisfaction(share, 200), constraint.target, constraint.dual, 2)
        path[step] = pytest.approx(math.exp(state.log_multiplier))
    assert _logged(trainer, "multiplier/no z") == path


def test_without_a_word_on_it_a_run_is_measured_about_sixteen_times(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(constraints=[_dual()], max_steps=24, iterations=1, measure_samples=4, logging_steps=24)
    trainer.train()
    assert list(_logged(trainer, "multiplier/no z")) == [0, *range(2, 24, 2)]


def test_a_run_without_such_a_constraint_measures_nothing(make_trainer: MakeTrainer, no_z: Constraint) -> None:
    trainer = make_trainer(constraints=[no_z], **STEPS)
    trainer.train()
    assert not (trainer.run_folder / "measurements").exists() and not (trainer.run_folder / TARGETS).exists()
    assert STATE not in trainer.state.stateful_callbacks  # type: ignore[operator]


def test_measuring_changes_nothing_that_training_draws(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """The same λ throughout: the measured run ends with the weights of the other."""
    still = {"lowest": 2.0 * (1 - 1e-12), "highest": 2.0 * (1 + 1e-12)}
    weights = []
    for name, constraint in (
        ("fixed", Constraint(RegexOracle("z"), weight=2.0, name="no z")),
        ("dual", _dual(dual=still)),
    ):
        trainer = make_trainer(constraints=[constraint], **STEPS, output_dir=str(tmp_path / name))
        trainer.train()
        assert trainer.model is not None
        weights.append({key: value.detach().clone() for key, value in trainer.model.named_parameters()})
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], atol=1e-6, rtol=1e-6)


def test_a_constraint_is_measured_on_the_domains_it_acts_in(make_trainer: MakeTrainer, corpus: Any) -> None:
    rows = [{**row, "domain": ("chat", "news")[number // 2 % 2]} for number, row in enumerate(corpus)]
    trainer = make_trainer(
        constraints=[_dual(), Constraint(RegexOracle("g"), 0.8, name="no g", multiplier="dual")], train_dataset=rows,
        domains={"news": {"constraints": {"no g": 1.0}}, "chat": {"constraints": {"no z": 1.0}}}, **STEPS,
    )  # fmt: skip
    trainer.train()
    for event in _events(trainer, "multiplier"):
        domain = {"no z": "chat", "no g": "news"}[event["constraint"]]
        if event["step"] == 3:
            samples = SampleStore(trainer.run_folder).labelled(1)
        else:
            (folder,) = (trainer.run_folder / "measurements").glob(f"step-00000{event['step']}-*")
            samples = SampleStore(folder).labelled(0)
        own = [item for item in samples if item.sample.domain == domain]
        assert event["n"] == len(own) < len(samples)


def test_the_end_says_of_every_target_whether_it_is_reached(make_trainer: MakeTrainer, measured: list[float]) -> None:
    other = Constraint(RegexOracle("q"), 0.45, name="no q", multiplier="dual")
    trainer = make_trainer(constraints=[_dual(), other], **STEPS)
    trainer.train()
    said = json.loads((trainer.run_folder / TARGETS).read_text())
    assert [(each["constraint"], each["verdict"]) for each in said] == [("no z", "not reached"), ("no q", "reached")]
    assert said[0]["sentence"].startswith(
        "target 0.9 of no z not reached: satisfaction 0.500 (0.431 to 0.569, n = 200)"
    )
    first = SampleStore(trainer.run_folder).samples(0)
    (folder,) = (trainer.run_folder / "measurements").glob("end-*")
    for found, key in ((SampleStore(folder).samples(0), "tokens"), (first, "tokens_at_first")):
        own = [ids[:-1] if done else ids for ids, done in ((each.output_ids, each.finished) for each in found)]
        assert said[0][key] == sum(map(len, own)) / len(own)
    assert said[0]["sentence"].endswith(
        f"outputs have {said[0]['tokens']:.1f} tokens, {said[0]['tokens_at_first']:.1f} at first"
    )
    events = _events(trainer, "target")
    assert [event["sentence"] for event in events] == [each["sentence"] for each in said]
    assert {event["step"] for event in events} == {6}
    assert _logged(trainer, "satisfaction/no z")[6] == 0.5


@pytest.mark.parametrize("behaviour", ["stop", "continue"])
def test_a_target_out_of_reach_ends_the_training_with_a_verdict_unless_it_is_to_go_on(
    make_trainer: MakeTrainer, measured: list[float], behaviour: str
) -> None:
    dual = {"highest": 3.0, "patience": 2, "when_unreachable": behaviour}
    trainer = make_trainer(constraints=[_dual(dual=dual)], **{**STEPS, "max_steps": 9})
    trainer.train()
    # λ is at its highest from the measurement at 1; those at 2, 3 and 4 find no more.
    assert trainer.state.global_step == (4 if behaviour == "stop" else 9)
    (event,) = _events(trainer, "given up")
    assert event["step"] == 4 and "target 0.9 of no z not reached: satisfaction 0.500" in event["sentence"]
    assert json.loads((trainer.run_folder / TARGETS).read_text())[0]["verdict"] == "not reached"
    trainer.save_model(str(trainer.run_folder / "model"))


class Stop(BaseException): ...


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise Stop


@pytest.mark.usefixtures("every_fit_is_taken_up")
@pytest.mark.parametrize("lost", ["nothing", "measurements", "the run folder"])
def test_a_resumed_run_has_the_same_multipliers_and_weights_to_the_bit(
    make_trainer: MakeTrainer, tmp_path: Path, lost: str
) -> None:
    settings: dict[str, Any] = {
        **STEPS,
        "max_steps": 8,
        "save_steps": 2,
        "save_total_limit": 9,
        "constraints": [_dual()],
    }
    whole = make_trainer(**settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make_trainer(**settings, output_dir=str(tmp_path / "stopped"), callbacks=[StopAfter(7)])
    with pytest.raises(Stop):
        stopped.train()
    folder = tmp_path / "stopped"
    if lost == "measurements":
        shutil.rmtree(folder / "measurements")
    checkpoint = folder / "checkpoint-6"
    if lost == "the run folder":
        checkpoint = Path(shutil.copytree(checkpoint, tmp_path / "kept" / "checkpoint-6"))
        shutil.rmtree(folder)
    state = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"][STATE]
    assert state["measured_at"] == 5  # the measurement at 6 comes after the checkpoint
    resumed = make_trainer(**settings, output_dir=str(folder))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert _logged(resumed, "multiplier/no z") == _logged(whole, "multiplier/no z")
    assert len(set(_logged(whole, "multiplier/no z").values())) == 8
    for name, weight in whole.model.named_parameters():  # type: ignore[union-attr]
        assert torch.equal(weight, resumed.model.get_parameter(name))  # type: ignore[union-attr]
    drawn = sorted(folder.glob("measurements/*/samples/*"))
    assert len(drawn) >= 2
    for file in drawn:
        assert file.read_bytes() == (tmp_path / "whole" / file.relative_to(folder)).read_bytes()


def test_a_run_that_had_given_up_stays_so_when_it_is_resumed(make_trainer: MakeTrainer, measured: list[float]) -> None:
    dual = {"highest": 3.0, "patience": 1, "when_unreachable": "continue"}
    settings = {**STEPS, "max_steps": 8, "save_steps": 5}
    make_trainer(constraints=[_dual(dual=dual)], **settings).train()
    resumed = make_trainer(constraints=[_dual(dual={**dual, "when_unreachable": "stop"})], **settings)
    resumed.train(resume_from_checkpoint=str(resumed.run_folder / "checkpoint-5"))
    assert resumed.state.global_step == 5


def test_what_another_policy_left_behind_is_not_read(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """A run killed before its first checkpoint and begun anew with other settings draws its own outputs."""
    paths = []
    for rate in (1e-2, 3e-2):
        trainer = make_trainer(
            constraints=[_dual()], **{**STEPS, "max_steps": 2}, iterations=1, learning_rate=rate, save_steps=99
        )
        trainer.train()
        paths.append(sorted(path.name for path in (trainer.run_folder / "measurements").iterdir()))
        for checkpoint in trainer.run_folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    assert len(paths[0]) == 2 and len(paths[1]) == 4
    assert math.isfinite(_logged(trainer, "multiplier/no z")[1])
