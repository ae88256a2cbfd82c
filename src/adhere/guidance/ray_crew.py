"""Actors of one kind that work through a queue. What one was given when it died goes to another, and it is replaced."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from adhere.errors import RefreshError


@dataclass(frozen=True, slots=True)
class Task:
    """A call of an actor's method; `number` names its result."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(slots=True)
class _Actor:
    handle: Any
    since: float  # when it was asked for, or last given something
    version: str | None = None  # of the weights that it was sent
    task: Task | None = None


@dataclass(slots=True)
class Crew:
    """So many actors of one kind, kept from one refresh to the next.

    Args:
        kind: for messages: samplers.
        size: how many.
        hire: asks Ray for one more.
        needs: for messages: what of a node one takes.
        patience: seconds in which the first of them must be ready to work.
        timeout: seconds after which a task counts as hung, and its actor is replaced.
        max_lost: actors that may be lost in one refresh.
    """

    kind: str
    size: int
    hire: Callable[[], Any]
    needs: str
    patience: float
    timeout: float
    max_lost: int
    lost: int = 0
    _queue: deque[Task] = field(default_factory=deque)
    _idle: list[_Actor] = field(default_factory=list)
    _busy: dict[Any, _Actor] = field(
        default_factory=dict
    )  # by what is waited for: a task's result, or that it is ready
    _weights: tuple[str, Any] | None = None

    def begin(self, version: str, weights: Any | None) -> None:
        """Begin a refresh: nothing is queued, nobody is lost, and everyone gets these weights before the first task."""
        self.lost = 0
        self._queue.clear()
        self._weights = None if weights is None else (version, weights)
        for actor in list(self._busy.values()):  # at work for a refresh that failed
            if actor.task is not None:
                self._dismiss(actor)

    def give(self, task: Task) -> None:
        """Queue a task."""
        self._queue.append(task)

    def hand_out(self) -> None:
        """Hire who is missing, replace who hangs, give work to who has none.

        Raises:
            RefreshError: nobody was ready for too long, or too many were lost.
        """
        now = time.monotonic()
        for actor in [a for a in self._busy.values() if a.task is not None and now - a.since > self.timeout]:
            self._lose(actor, f"gave nothing back for {self.timeout:g} seconds")
        self.hire_for(len(self._queue) + sum(a.task is not None for a in self._busy.values()))
        while self._queue and self._idle:
            actor = self._idle.pop()
            self._start(actor, self._queue.popleft())
        if (waited := self.waits()) > self.patience:
            raise RefreshError(
                f"none of the Ray {self.kind} ({self.needs} each) was ready after {waited:.0f} seconds "
                f"(guidance.ray.patience); the cluster has {_told('cluster_resources')}, of which "
                f"{_told('available_resources')} are free: add nodes, ask for less (guidance.ray), or see "
                "in Ray's logs why they do not start"
            )

    def hire_for(self, tasks: int) -> None:
        """Hire who is missing to do so many tasks, up to the size of the crew; they load while others work."""
        for _ in range(min(self.size, tasks) - len(self._idle) - len(self._busy)):
            handle = self.hire()
            self._busy[handle.ready.remote()] = _Actor(handle, time.monotonic())

    def waits(self) -> float:
        """Seconds for which there has been work, and nobody ready to do it."""
        starting = [actor for actor in self._busy.values() if actor.task is None]
        if not self._queue or not starting or len(starting) < len(self._busy):
            return 0.0
        return time.monotonic() - max(actor.since for actor in starting)

    def make_room(self) -> None:
        """Let go of those without work, for others that find no node; they are hired again when they are needed."""
        while self._idle:
            ray.kill(self._idle.pop().handle)

    def awaited(self) -> list[Any]:
        """What Ray is to be asked about."""
        return list(self._busy)

    def settle(self, reference: Any) -> tuple[int, Any] | None:
        """Take what has come: a task's number and its result; None when somebody was hired, or lost.

        Raises:
            RefreshError: too many were lost.
            Exception: what the task raised there.
        """
        actor = self._busy[reference]
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            self._busy.pop(reference)
            self._idle.append(actor)
            actor.task = None
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayError as error:
            self._lose(actor, type(error).__name__)
            return None
        task, actor.task = self._busy.pop(reference).task, None
        self._idle.append(actor)
        return None if task is None else (task.number, result)

    def dismiss(self) -> None:
        """Let go of everybody."""
        for actor in [*self._busy.values(), *self._idle]:
            ray.kill(actor.handle)
        self._busy.clear()
        self._idle.clear()

    def _start(self, actor: _Actor, task: Task) -> None:
        arguments = task.arguments
        if self._weights is not None:
            version, weights = self._weights
            if actor.version != version:
                actor.handle.equip.remote(
                    version, weights
                )  # done before the next call: an actor does one thing at a time
                actor.version = version
            arguments = (version, *arguments)
        actor.task, actor.since = task, time.monotonic()
        self._busy[getattr(actor.handle, task.method).remote(*arguments)] = actor

    def _lose(self, actor: _Actor, why: str) -> None:
        if actor.task is not None:
            self._queue.appendleft(actor.task)
        self._dismiss(actor)
        self.lost += 1
        if self.lost > self.max_lost:
            raise RefreshError(
                f"{self.lost} of the Ray {self.kind} were lost in one refresh (guidance.ray.max_lost is {self.max_lost}), the "
                f"last one because it {why}"
            )

    def _dismiss(self, actor: _Actor) -> None:
        for reference, each in list(self._busy.items()):
            if each is actor:
                del self._busy[reference]
        ray.kill(actor.handle)


def finished(crews: Sequence[Crew], wait: float) -> Iterator[tuple[Crew, int, Any]]:
    """Hand out work, wait a moment, and give what has come: which crew's, its number, the result. Raises as `Crew`."""
    for crew in crews:
        crew.hand_out()
    owner = {reference: crew for crew in crews for reference in crew.awaited()}
    if not owner:
        return
    come, _ = ray.wait(list(owner), num_returns=1, timeout=wait)
    if come:  # whatever else has come meanwhile
        come, _ = ray.wait(list(owner), num_returns=len(owner), timeout=0)
    for reference in come:
        crew = owner[reference]
        if reference in crew.awaited() and (settled := crew.settle(reference)) is not None:
            yield crew, *settled


def _told(which: Literal["cluster_resources", "available_resources"]) -> str:
    resources: dict[str, float] = getattr(ray, which)()
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
