"""The parallel schedule: which guidance is in force when, what is waited for, and what happens when a refresh fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from adhere.errors import OracleError, RefreshError
from adhere.guidance import attempts
from adhere.guidance.guidance import Guidance
from adhere.guidance.parallel import Parallel
from adhere.guidance.refresh import Request
from adhere.guidance.schedule import InForce, Sequential
from adhere.records import GuidanceVersion

POLICY: PreTrainedModel = None  # type: ignore[assignment]  # no executor here looks at it
STARTS = [0, 2, 4, 6]


@dataclass
class Job:
    """An attempt that is ready when its executor's clock says so, and fails where it has an error."""

    executor: Elsewhere
    request: Request
    ready_at: float
    error: Exception | None = None
    seconds: float = 7.0

    def done(self) -> bool:
        return self.executor.now >= self.ready_at

    def result(self) -> Guidance:
        if not self.done():
            self.executor.waited_for.append(self.request.iteration)
            self.executor.now = self.ready_at
        if self.error is not None:
            raise self.error
        return Guidance(GuidanceVersion(self.request.iteration, self.request.policy_step), {})


@dataclass
class Elsewhere:
    """An executor with a clock of its own: `lasts` says how long an attempt takes, `fails` which attempts fail."""

    lasts: Callable[[int], float] = lambda iteration: 1.5
    fails: Callable[[int, int], Exception | None] = lambda iteration, attempt: None
    held: tuple[int, ...] = ()
    now: float = 0.0
    requests: list[Request] = field(default_factory=list)
    waited_for: list[int] = field(default_factory=list)
    closed: bool = False

    def submit(self, request: Request, policy: PreTrainedModel) -> Job:
        attempt = sum(r.iteration == request.iteration for r in self.requests)
        self.requests.append(request)
        lasts = 0.0 if request.iteration in self.held else self.lasts(request.iteration)
        return Job(self, request, self.now + lasts, self.fails(request.iteration, attempt))

    def holds(self, iteration: int) -> bool:
        return iteration in self.held

    def close(self) -> None:
        self.closed = True

    def asked(self) -> list[tuple[int, int, int, int | None]]:
        """(iteration, policy_step, step, iteration of the guidance it goes on from) of every request."""
        return [
            (r.iteration, r.policy_step, r.step, None if r.previous is None else r.previous.version.iteration)
            for r in self.requests
        ]


def train(
    executor: Elsewhere, steps: Sequence[int] = range(8), taken_up: InForce | None = None, schedule: Any = Parallel,
    starts: Sequence[int] = STARTS, report: Any = lambda *_: None, max_failures: int = 5,
) -> list[tuple[int, InForce, dict[str, float]]]:  # fmt: skip
    """A run whose steps take a second each: iteration of the guidance, where the schedule stands, what it tells."""
    made = schedule(starts, executor, taken_up, max_failures, report)
    trained = []
    for step in steps:
        guidance = made.guidance_at(step, POLICY)
        trained.append((guidance.version.iteration, made.in_force(), made.told()))
        executor.now += 1.0
    return trained


@pytest.fixture(autouse=True)
def no_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause between two attempts is over at once, unless a test says otherwise."""
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)


def test_every_iteration_but_the_first_is_trained_with_the_guidance_of_the_policy_an_iteration_ago() -> None:
    executor = Elsewhere()
    assert [iteration for iteration, *_ in train(executor)] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert executor.asked() == [(0, 0, 0, None), (1, 2, 2, 0), (2, 4, 4, 1)]  # none in the last: nobody would use it


def test_staleness_is_told_in_iterations_and_in_steps() -> None:
    told = [numbers for _, _, numbers in train(Elsewhere())]
    assert [numbers["staleness/iterations"] for numbers in told] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [numbers["staleness/steps"] for numbers in told] == [0, 0, 2, 2, 2, 2, 2, 2]
    assert [numbers.get("refresh_seconds") for numbers in told[::2]] == [7.0, None, 7.0, 7.0]


@pytest.mark.parametrize(("lasts", "waited_for"), [(1.9, [0]), (2.5, [0, 1, 2])])
def test_training_waits_only_for_guidance_that_is_not_ready(lasts: float, waited_for: list[int]) -> None:
    executor = Elsewhere(lasts=lambda _: lasts)
    train(executor)
    assert executor.waited_for == waited_for


@given(st.lists(st.floats(0, 9), min_size=3, max_size=3))
def test_which_guidance_a_step_is_trained_with_does_not_depend_on_how_long_anything_takes(lasts: list[float]) -> None:
    assert [i for i, *_ in train(Elsewhere(lasts=lambda i: lasts[i]))] == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("starts", "used"), [([0], [0] * 6), ([0, 3], [0] * 6)])
def test_one_iteration_and_two_have_one_guidance(starts: list[int], used: list[int]) -> None:
    executor = Elsewhere()
    assert [i for i, *_ in train(executor, range(6), starts=starts)] == used
    assert executor.asked() == [(0, 0, 0, None)]


@pytest.mark.parametrize("stopped", range(1, 8))
def test_a_run_that_was_stopped_goes_on_with_the_guidance_it_would_have_had(stopped: int) -> None:
    whole = train(Elsewhere())
    stood = whole[stopped - 1][1]  # what the checkpoint after step `stopped - 1` says
    executor = Elsewhere(held=tuple(range(stood.guidance + 1)))
    resumed = train(executor, range(stopped, 8), stood)
    assert [(i, stands) for i, stands, _ in resumed] == [(i, stands) for i, stands, _ in whole[stopped:]]
    made = [asked for asked in executor.asked() if asked[0] > stood.guidance]
    expected = [(1, 2, 2, 0), (2, 4, 4, 1)][stood.guidance :]
    # The same policies, and going on from the same guidance; only asked for later.
    assert [(i, at, previous) for i, at, _, previous in made] == [(i, at, previous) for i, at, _, previous in expected]


def test_a_sequential_run_goes_on_in_parallel_from_the_guidance_it_has() -> None:
    executor = Elsewhere(held=(0, 1))
    used = [i for i, *_ in train(executor, range(3, 8), InForce(1))]  # stopped in the middle of iteration 1
    assert used == [1, 1, 1, 2, 2]
    assert executor.asked() == [(1, 2, 3, None), (2, 4, 4, 1)]


def test_a_parallel_run_goes_on_sequentially_from_the_guidance_it_has() -> None:
    executor = Elsewhere(held=(0,))
    used = [i for i, *_ in train(executor, range(3, 8), InForce(0, 1), Sequential)]
    assert used == [0, 2, 2, 3, 3]
    assert executor.asked() == [(0, 0, 3, None), (2, 4, 4, 0), (3, 6, 6, 2)]


def test_a_checkpoint_that_does_not_say_is_taken_for_a_sequential_one() -> None:
    executor = Elsewhere(held=(0, 1))
    assert [i for i, *_ in train(executor, range(4, 8))] == [1, 1, 2, 2]
    assert executor.asked() == [(1, 2, 4, None), (2, 4, 4, 1)]


# ---- faults ---------------------------------------------------------------------------------------------------------


def failing(*which: tuple[int, int]) -> Callable[[int, int], Exception | None]:
    return lambda iteration, attempt: RefreshError("the worker died") if (iteration, attempt) in which else None


def test_a_refresh_that_fails_in_time_is_made_again_and_nobody_notices() -> None:
    executor = Elsewhere(lasts=lambda _: 0.5, fails=failing((1, 0)))
    events: list[tuple[str, dict[str, Any]]] = []
    used = train(executor, starts=[0, 4, 8], steps=range(10), report=lambda *event: events.append(event))
    assert [i for i, *_ in used] == [0] * 8 + [1] * 2
    assert executor.asked() == [(0, 0, 0, None), (1, 4, 4, 0), (1, 4, 6, 0)]  # from the snapshot, asked two steps later
    assert [name for name, _ in events] == ["refresh failed"]
    assert events[0][1]["why"] == "the worker died" and events[0][1]["failure"] == 1


def test_where_it_has_failed_at_the_boundary_training_goes_on_with_the_last_guidance_and_takes_it_later() -> None:
    executor = Elsewhere(lasts=lambda _: 3.0, fails=failing((1, 0)))
    events: list[tuple[str, dict[str, Any]]] = []
    trained = train(executor, report=lambda *event: events.append(event))
    assert [i for i, *_ in trained] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert executor.waited_for == [0, 1, 1]  # an attempt under way is waited for, a failed one is not
    assert trained[4][1] == InForce(0, refreshing=1)
    assert [name for name, _ in events] == ["refresh failed", "goes on with the last guidance"]
    assert trained[4][2]["staleness/iterations"] == 2 and trained[6][2]["staleness/steps"] == 4


def test_a_run_that_went_on_with_stale_guidance_resumes_with_it() -> None:
    whole = train(Elsewhere(lasts=lambda _: 3.0, fails=failing((1, 0))))
    resumed = train(Elsewhere(lasts=lambda _: 0.0, held=(0,)), range(5, 8), whole[4][1])
    assert [i for i, *_ in resumed] == [0, 1, 1]  # though it could have been made at once


def test_after_too_many_failures_in_a_row_the_run_stops_and_says_why() -> None:
    executor = Elsewhere(fails=lambda iteration, _: RefreshError("no memory") if iteration else None)
    with pytest.raises(
        RefreshError, match=r"iteration 1 could not be made, it failed 3 times in a row .*because no memory"
    ):
        train(executor, starts=[0, 2, 90], steps=range(90), max_failures=3)
    assert len(executor.requests) == 1 + 3


def test_the_first_guidance_has_none_before_it_so_it_is_insisted_on() -> None:
    executor = Elsewhere(fails=failing((0, 0), (0, 1)))
    assert [i for i, *_ in train(executor)] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert [r.iteration for r in executor.requests] == [0, 0, 0, 1, 2]
    with pytest.raises(RefreshError, match="iteration 0"):
        train(Elsewhere(fails=lambda *_: RefreshError("dead")), max_failures=2)


def test_a_failure_that_no_other_attempt_would_mend_ends_the_run_at_once() -> None:
    executor = Elsewhere(fails=lambda iteration, _: OracleError("not a number") if iteration else None)
    with pytest.raises(OracleError, match="not a number"):
        train(executor)
    assert len(executor.requests) == 2


def test_a_refresh_that_failed_at_the_last_boundary_is_not_tried_again() -> None:
    executor = Elsewhere(lasts=lambda _: 3.0, fails=lambda i, _: RefreshError("dead") if i == 2 else None)
    trained = train(executor, range(12))
    assert [i for i, *_ in trained] == [0, 0, 0, 0, 1, 1] + [1] * 6
    assert trained[-1][1] == InForce(1) and len(executor.requests) == 3


@pytest.mark.parametrize("schedule", [Parallel, Sequential])
def test_closing_a_schedule_closes_its_executor(schedule: Any) -> None:
    executor = Elsewhere()
    made = schedule(STARTS, executor)
    made.guidance_at(0, POLICY)
    made.close()
    assert executor.closed


def test_pauses_between_attempts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 2.0)
    executor = Elsewhere(fails=lambda _, attempt: RefreshError("busy") if attempt < 4 else None)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        executor.now += seconds

    request = Request(0, 0, 0, None)
    refresh = attempts.Attempts(executor, request, POLICY, 5, lambda *_: None, lambda: executor.now, sleep)
    assert refresh.insist(0, POLICY).version.iteration == 0
    assert slept == [2.0, 8.0, 32.0, 128.0]
    assert [replace(r) for r in executor.requests] == [request] * 5
