"""Actors that work through a queue: what is lost is done again, what they raise is raised here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import GuidanceError, RefreshError

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.usefixtures("ray_of_its_own"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A crew of workers that know the number of every call; `dies` and `hangs` do so at a number's first call."""
    from adhere.guidance.ray_crew import Crew

    class Worker:  # here, so that Ray sends it by value
        def __init__(self) -> None:
            self.weights = None

        def ready(self) -> bool:
            return True

        def equip(self, version: str, weights: Any) -> None:
            self.weights = (version, weights)

        def squared(self, number: int) -> int:
            return number * number

        def weighed(self, version: str, number: int) -> tuple[Any, int]:
            return self.weights, number

        def once(self, number: int, how: str, marks: str) -> int:
            import os
            import time

            mark = os.path.join(marks, str(number))
            if not os.path.exists(mark):
                open(mark, "w").close()
                if how == "dies":
                    os._exit(1)
                time.sleep(600)
            return number

        def raises(self, number: int) -> None:
            raise GuidanceError(f"nothing in {number}")

    made: list[Any] = []

    def make(size: int = 2, cpus: float = 0.1, **limits: Any) -> Any:
        actor = ray.remote(max_restarts=0)(Worker)
        settings = {"patience": 120.0, "timeout": 120.0, "max_lost": 8, **limits}
        made.append(Crew("workers", size, lambda: actor.options(num_cpus=cpus).remote(), f"{cpus:g} CPU", **settings))
        return made[-1]

    yield make
    for each in made:
        each.dismiss()


def _all(crew: Any, tasks: int) -> dict[int, Any]:
    from adhere.guidance.ray_crew import finished

    found: dict[int, Any] = {}
    until = time.monotonic() + 300
    while len(found) < tasks and time.monotonic() < until:
        for _, number, result in finished((crew,), 0.1):
            assert number not in found
            found[number] = result
    return found


def _give(crew: Any, method: str, numbers: range, *more: Any) -> None:
    from adhere.guidance.ray_crew import Task

    for number in numbers:
        crew.give(Task(number, method, (number, *more)))


def test_every_task_is_done_once(crew: Callable[..., Any]) -> None:
    workers = crew()
    _give(workers, "squared", range(20))
    assert _all(workers, 20) == {number: number * number for number in range(20)}
    assert workers.lost == 0


def test_everyone_has_the_weights_before_the_first_task(crew: Callable[..., Any]) -> None:
    workers = crew()
    for version in ("first", "second"):
        workers.begin(version, ray.put([version]))
        _give(workers, "weighed", range(6))
        assert _all(workers, 6) == {number: ((version, [version]), number) for number in range(6)}


def test_what_an_actor_was_doing_when_it_died_is_done_by_another(crew: Callable[..., Any], tmp_path: Path) -> None:
    workers = crew()
    _give(workers, "once", range(3), "dies", str(tmp_path))
    _give(workers, "squared", range(10, 20))
    assert sorted(_all(workers, 13)) == [0, 1, 2, *range(10, 20)]
    assert workers.lost == 3


def test_who_hangs_is_replaced(crew: Callable[..., Any], tmp_path: Path) -> None:
    workers = crew(size=1)
    _give(workers, "squared", range(1))
    assert _all(workers, 1) == {0: 0}  # the process is there: only the task's own time counts now
    workers.timeout = 1.0
    _give(workers, "once", range(1), "hangs", str(tmp_path))
    assert _all(workers, 1) == {0: 0}
    assert workers.lost == 1


def test_losing_too_many_fails_the_refresh(crew: Callable[..., Any], tmp_path: Path) -> None:
    workers = crew(size=1, max_lost=1)
    _give(workers, "once", range(3), "dies", str(tmp_path))
    with pytest.raises(RefreshError, match=r"2 of the Ray workers were lost in one refresh.*max_lost is 1"):
        _all(workers, 3)


def test_what_a_task_raises_is_raised_here_and_the_actor_stays(crew: Callable[..., Any]) -> None:
    workers = crew(size=1)
    _give(workers, "raises", range(1))
    with pytest.raises(GuidanceError, match=r"^nothing in 0$"):
        _all(workers, 1)
    workers.begin("next", None)
    _give(workers, "squared", range(2))
    assert _all(workers, 2) == {0: 0, 1: 1}
    assert workers.lost == 0


def test_a_cluster_without_room_is_said_with_what_it_has(crew: Callable[..., Any]) -> None:
    workers = crew(cpus=100, patience=0.3)
    _give(workers, "squared", range(1))
    with pytest.raises(
        RefreshError, match=r"none of the Ray workers \(100 CPU each\) was ready.*the cluster has 4 CPU, 0 GPU"
    ):
        _all(workers, 1)
