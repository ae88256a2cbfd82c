"""When guidance is refreshed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Request
from adhere.guidance.schedule import Sequential, boundaries
from adhere.records import GuidanceVersion

POLICY: PreTrainedModel = None  # type: ignore[assignment]  # no executor here looks at it


@pytest.mark.parametrize(
    ("steps", "iterations", "starts"),
    [(6, 1, [0]), (6, 3, [0, 2, 4]), (7, 3, [0, 2, 4]), (75, 4, [0, 18, 37, 56]), (3, 3, [0, 1, 2])],
)
def test_iterations_begin_at_even_distances(steps: int, iterations: int, starts: list[int]) -> None:
    assert boundaries(steps, iterations) == starts


@given(st.integers(1, 500).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(1, steps))))
def test_every_iteration_trains_as_many_steps_as_any_other_but_one(both: tuple[int, int]) -> None:
    steps, iterations = both
    starts = [*boundaries(steps, iterations), steps]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    assert starts[0] == 0 and len(lengths) == iterations
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("steps", "iterations"), [(2, 3), (5, 0), (0, 1), (5, -1)])
def test_more_iterations_than_steps_and_none_at_all_are_refused(steps: int, iterations: int) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and the number of training steps \({steps}\), got {iterations}"):
        boundaries(steps, iterations)


@dataclass
class Recorded:
    """An executor that is ready at once and remembers what it was asked for."""

    seconds = 0.0
    requests: list[Request] = field(default_factory=list)
    held: tuple[int, ...] = ()  # iterations whose guidance is on disk

    def submit(self, request: Request, policy: PreTrainedModel) -> Recorded:
        self.requests.append(request)
        return self

    def holds(self, iteration: int) -> bool:
        return iteration in self.held

    def done(self) -> bool:
        return True

    def result(self) -> Guidance:
        request = self.requests[-1]
        return Guidance(GuidanceVersion(request.iteration, request.policy_step), {})

    def close(self) -> None: ...

    def told(self) -> list[tuple[int, int, int, int | None]]:
        """(iteration, policy_step, step, iteration of the previous guidance) of every request."""
        return [
            (r.iteration, r.policy_step, r.step, None if r.previous is None else r.previous.version.iteration)
            for r in self.requests
        ]


def test_each_guidance_is_asked_for_once_at_its_boundary_and_goes_on_from_the_one_before() -> None:
    executor = Recorded()
    schedule = Sequential([0, 2, 5], executor)
    in_force = [schedule.guidance_at(step, POLICY).version.iteration for step in range(8)]
    assert in_force == [0, 0, 1, 1, 1, 2, 2, 2]
    assert executor.told() == [(0, 0, 0, None), (1, 2, 2, 0), (2, 5, 5, 1)]


@pytest.mark.parametrize(
    ("step", "asked"),
    [
        (0, [(0, 0, 0, None)]),
        (1, [(0, 0, 1, None)]),  # in the middle: the step asked at tells that it can only come from disk
        (2, [(0, 0, 2, None), (1, 2, 2, 0)]),  # at a boundary: the one before from disk, this one is made
        (6, [(1, 2, 6, None), (2, 5, 6, 1)]),
    ],
)
def test_after_a_resume_the_guidance_in_force_and_the_one_before_are_taken_up(
    step: int, asked: list[tuple[int, int, int, int | None]]
) -> None:
    executor = Recorded()
    schedule = Sequential([0, 2, 5], executor)
    schedule.guidance_at(step, POLICY)
    assert executor.told() == asked
    schedule.guidance_at(step, POLICY)
    assert executor.told() == asked


def test_guidance_on_disk_is_taken_up_without_the_one_before() -> None:
    executor = Recorded(held=(2,))
    Sequential([0, 2, 5], executor).guidance_at(6, POLICY)
    assert executor.told() == [(2, 5, 6, None)]
