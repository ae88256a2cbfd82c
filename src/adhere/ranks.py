"""The processes that train one model together (`accelerate launch`), and how they agree.

The first of them alone touches the run folder and asks services; what it finds out is told to the others (`on_first`). Work
that can be shared is done in rounds (`in_rounds`). An error in such work stops all of them: where it came up it is raised as
it is, everywhere else as PeerError, so that one message is shown. With one process everything is a plain call.

Who is who stands in the environment, where every launcher puts it, and torch is not imported to find out. A process is one
of them from `join` on: those that they start inherit the environment, and train nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from adhere.errors import PeerError

PATIENCE = timedelta(days=7)
"""How long one process waits for another, which may be sampling, labelling or fitting. One that died is noticed at once."""

Result = TypeVar("Result")
Item = TypeVar("Item")

_size = 1
_alone = ContextVar("alone", default=False)  # in work that the others wait for; each thread has its own
_group: Any = None


def launched() -> int:
    """How many processes a launcher has started to train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def index() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if "LOCAL_RANK" in os.environ else 0


def is_first() -> bool:
    """True in the process that writes and speaks."""
    return index() == 0


def join() -> int:
    """Work together with the others from now on; returns how many processes there are. They must all call it."""
    global _size, _group
    if launched() > 1 and _group is None:
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())
        # Over the CPU, and with more patience than training's own group has.
        _group, _size = dist.new_group(backend="gloo", timeout=PATIENCE), launched()
    return _size


def count() -> int:
    """How many processes work together here; 1 before `join`, and in work that only one of them does."""
    return 1 if _alone.get() else _size


def on_first(work: Callable[[], Result]) -> Result:
    """What `work` returns in the first process, in all of them. It must be able to travel (pickle).

    Raises:
        PeerError: in the others, when it raised there.
    """
    if count() == 1:
        return work()
    told: list[Any] = [None]
    if is_first():
        with by_itself():
            told[0] = _Told.of(work)
    import torch.distributed as dist

    sent = [told[0] and told[0].to_send()]
    dist.broadcast_object_list(sent, src=0, group=_group)
    result: Result = _unpacked(0, told[0] or sent[0])
    return result


def on_each(work: Callable[[], Result]) -> list[Result]:
    """What `work` returns in every process, in their order, in all of them.

    Raises:
        PeerError: in those in which it did not raise, when it did in another.
    """
    if count() == 1:
        return [work()]
    import torch.distributed as dist

    with by_itself():
        own = _Told.of(work)
    told: list[Any] = [None] * count()
    dist.all_gather_object(told, own.to_send(), group=_group)
    told[index()] = own
    _unpacked(index(), own)  # its own error before that of another
    return [_unpacked(number, each) for number, each in enumerate(told)]


def in_rounds(
    items: Sequence[Item], work: Callable[[Item], Result], *, shared: bool = True
) -> Iterator[tuple[Item, Result]]:
    """Every item with what `work` makes of it, in order and in all processes: in a round each of them does one.

    Args:
        shared: False where the first process does all of it.
    """
    size = count() if shared else 1
    for start in range(0, len(items), size):
        part = items[start : start + size]

        def own(part: Sequence[Item] = part) -> Result | None:
            mine = index() if size > 1 else 0
            return work(part[mine]) if mine < len(part) else None

        results = on_each(own) if shared else [on_first(own)]
        yield from zip(part, cast("list[Result]", results[: len(part)]), strict=True)


@dataclass(frozen=True, slots=True)
class _Told(Generic[Result]):
    """What came of work: a result, or the error and what others are told of it."""

    result: Result | None = None
    error: BaseException | None = None
    trouble: str = ""

    @classmethod
    def of(cls, work: Callable[[], Result]) -> _Told[Result]:
        try:
            return cls(work())
        except Exception as error:
            return cls(error=error, trouble=f"{type(error).__name__}: {error}")

    def to_send(self) -> _Told[Result]:
        """Errors stay where they are: not all of them can travel."""
        return self if self.error is None else _Told(trouble=self.trouble)


def _unpacked(number: int, told: _Told[Any]) -> Any:
    if told.error is not None:
        raise told.error
    if told.trouble:
        raise PeerError(f"process {number} of this run stopped: {told.trouble}")
    return told.result


@contextmanager
def by_itself() -> Iterator[None]:
    """Nothing that this thread does in the block waits for other processes: they wait for it, or know nothing of it."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)
