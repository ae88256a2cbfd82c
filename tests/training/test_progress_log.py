"""What a run says of itself: means, speed, satisfaction with its interval, events."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adhere.guidance.guidance import Guidance
from adhere.records import GuidanceVersion, LabelledSample, Sample, Verdict
from adhere.training import progress_log
from adhere.training.loss import LossSums
from adhere.training.progress_log import ProgressLog, satisfaction_numbers


def _labelled(*scores: float | None) -> list[LabelledSample]:
    sample = Sample(0, 0, "p", "o", (1,), (2,), True, -1.0)
    return [LabelledSample(sample, {"c": Verdict(score)}) for score in scores]


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_log, "time", clock)
    return clock


def _sums(corpus: float, kl: float) -> LossSums:
    return LossSums(torch.tensor(corpus), torch.tensor(2 * kl), {"a": torch.tensor(kl), "b": torch.tensor(1.0)})


def _trainer(step: int, begins: bool = True, is_new: bool = True) -> Any:
    """At a step that begins its iteration or not, with guidance that was in force before or not."""
    logs: list[dict[str, float]] = []
    refreshes = SimpleNamespace(begins=begins, is_new=is_new, told=lambda: {"waited_seconds": 2.0})
    state = SimpleNamespace(global_step=step)
    return SimpleNamespace(constraints=[], state=state, log=logs.append, logs=logs, refreshes=refreshes)


def test_the_log_has_the_mean_over_steps_of_what_the_micro_batches_add_up_to(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    for corpus, kl in ((3.0, 2.0), (5.0, 4.0), (1.0, 0.0), (7.0, 2.0)):  # two steps of two micro-batches
        log.add(_sums(corpus, kl), corpus=8.0, held=4.0, tokens=10)
    taken = log.take(2)
    assert taken["corpus_loss"] == pytest.approx(16 / 8 / 2)
    assert taken["regulariser"] == pytest.approx(16 / 4 / 2)
    assert [taken["kl/a"], taken["kl/b"]] == pytest.approx([8 / 4 / 2, 4 / 4 / 2])
    assert taken["kl"] == pytest.approx(1.5)
    log.add(_sums(8.0, 0.0), corpus=8.0, held=4.0, tokens=10)
    assert log.take(3)["corpus_loss"] == pytest.approx(1.0)


def test_a_resumed_run_counts_the_steps_from_where_it_goes_on(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    log.guidance(_trainer(step=40, begins=False), Guidance(GuidanceVersion(1, 30), {}))
    log.add(_sums(8.0, 4.0), corpus=8.0, held=4.0, tokens=10)
    log.add(_sums(8.0, 4.0), corpus=8.0, held=4.0, tokens=10)
    assert log.take(42)["corpus_loss"] == pytest.approx(1.0)


def test_speed_leaves_out_refreshes_and_what_came_before_the_first_step(tmp_path: Path, clock: Clock) -> None:
    log = ProgressLog(tmp_path)

    def refresh(step: int, seconds: float) -> None:
        log.pause()
        clock.now += seconds
        log.guidance(_trainer(step), Guidance(GuidanceVersion(step, step), {}))

    clock.now += 1000
    refresh(0, seconds=500)
    for _ in range(4):
        log.add(_sums(1.0, 1.0), 1.0, 1.0, tokens=50)
        clock.now += 2
        log.pause()  # before every step
    refresh(4, seconds=300)
    log.add(_sums(1.0, 1.0), 1.0, 1.0, tokens=50)
    clock.now += 2
    assert log.take(5)["tokens_per_second"] == pytest.approx(250 / 10)
    log.add(_sums(1.0, 1.0), 1.0, 1.0, tokens=60)
    clock.now += 3
    assert log.take(6)["tokens_per_second"] == pytest.approx(20)


def test_guidance_is_logged_where_its_iteration_begins_and_not_again_after_a_resume(tmp_path: Path) -> None:
    begins, resumed = _trainer(step=30), _trainer(step=33, begins=False)
    for trainer in (begins, resumed):
        ProgressLog(tmp_path).guidance(trainer, Guidance(GuidanceVersion(2, 30), {}))
    assert begins.logs == [{"iteration": 2.0, "waited_seconds": 2.0}]
    assert resumed.logs == []


def test_the_log_names_the_policy_that_samples_are_of_where_it_is_not_that_of_the_step(tmp_path: Path) -> None:
    late, again = _trainer(step=40), _trainer(step=50, is_new=False)
    for trainer in (late, again):
        ProgressLog(tmp_path).guidance(trainer, Guidance(GuidanceVersion(2, 30), {}))
    assert late.logs == [{"iteration": 2.0, "waited_seconds": 2.0, "policy_step": 30.0}]
    assert again.logs == [{"waited_seconds": 2.0}]  # a new iteration, but no new samples


def test_satisfaction_comes_with_its_wilson_interval() -> None:
    numbers = satisfaction_numbers("c", _labelled(*[1.0] * 7, 0.5, 0.49, 0.0))
    assert numbers["satisfaction/c"] == pytest.approx(0.8)
    # (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n) for p = 0.8, n = 10, z = 1.96
    assert numbers["satisfaction/c/low"] == pytest.approx(0.4902, abs=1e-4)
    assert numbers["satisfaction/c/high"] == pytest.approx(0.9433, abs=1e-4)


def test_samples_without_a_verdict_are_counted_and_not_guessed() -> None:
    numbers = satisfaction_numbers("c", _labelled(1.0, None, 0.0, None))
    assert (numbers["satisfaction/c"], numbers["no_verdict/c"]) == (0.5, 2.0)
    assert satisfaction_numbers("c", _labelled(None)) == {"no_verdict/c": 1.0}


def test_events_are_lines_of_json_on_disk(tmp_path: Path, clock: Clock) -> None:
    log = ProgressLog(tmp_path)
    log.event("sampled", 3, {"batch": 1})
    log.event("fitted", 3, {"constraint": "c"})
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "sampled", "step": 3, "time": 100.0, "batch": 1},
        {"event": "fitted", "step": 3, "time": 100.0, "constraint": "c"},
    ]
