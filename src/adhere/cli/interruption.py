"""Ctrl-C, or a scheduler's SIGTERM: say what is on disk, and the command that goes on from there."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from adhere import ranks
from adhere.cli.screen import command, complain

INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal's number, as shells have it
RESUME = "--resume"


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a process in the same order as Ctrl-C does."""


@contextmanager
def resumable(context: typer.Context, folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into what was kept in the run folder, the exact command to resume, and exit code 130 (SIGTERM: 143)."""

    def told() -> tuple[str, str]:
        options = [] if RESUME in _typed(context) or not folder.exists() else [RESUME]
        return kept(folder), f"Go on with:  {command(*_typed(context), *options)}"

    with _stopped(told):
        yield


@contextmanager
def stoppable(context: typer.Context, untouched: Path | None) -> Iterator[None]:
    """The same for work that writes its one file at its end, and so leaves nothing when it is stopped."""
    left = f"Nothing was written to {untouched}." if untouched else "Nothing was written."
    with _stopped(lambda: (left, f"Begin again with:  {command(*_typed(context))}")):
        yield


@contextmanager
def repeatable(context: typer.Context, folder: Path) -> Iterator[None]:
    """The same for work in parts that is gone on with by typing the same again."""
    with _stopped(lambda: (kept(folder), f"Go on with:  {command(*_typed(context))}")):
        yield


@contextmanager
def continuable(context: typer.Context, left: str) -> Iterator[None]:
    """The same for work on one file that goes on where it was stopped; `left` says what is there."""
    with _stopped(lambda: (left, f"Go on with:  {command(*_typed(context))}")):
        yield


def kept(folder: Path) -> str:
    """What a run folder holds, in a sentence."""
    if not folder.exists():
        return f"Nothing was written to {folder} yet."
    held = []
    names = [path.name for path in folder.rglob("checkpoint-*")]
    steps = [int(found[1]) for name in names if (found := re.fullmatch(r"checkpoint-(\d+)", name))]
    if steps:
        held.append(f"a checkpoint at step {max(steps)}")
    if any(folder.rglob("stages/*/model")):
        held.append("the model of the first stage")
    for kind in ("samples", "labels"):
        files = [path for path in folder.rglob(f"{kind}/iteration-*.jsonl") if path.stat().st_size]
        iterations = {path.name for path in files}  # not their copies beside checkpoints
        if iterations:
            held.append(f"{kind} of {len(iterations)} iteration{'s' if len(iterations) > 1 else ''}")
    evaluations = [path.stem for path in folder.rglob("evaluation/*.json") if path.name != "tokens.json"]
    if evaluations:
        held.append(f"the evaluation of {', '.join(sorted(evaluations))}")
    suites = [f"{path.parent.name} of {path.stem}" for path in folder.rglob("evaluation/*/*.json")]
    if suites:
        held.append(f"the suites {', '.join(sorted(suites))}")
    return f"On disk in {folder}: {'; '.join(held) if held else 'no checkpoint yet'}."


def _typed(context: typer.Context) -> list[str]:
    return list(context.obj or ())  # `AdhereGroup` puts it there


@contextmanager
def _stopped(told: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Both signals, turned into what is told and an exit code."""
    try:
        with _terminable():
            yield
    except KeyboardInterrupt as stop:
        if ranks.is_first():
            complain("", "Stopped.", *told())
            if ranks.launched() > 1:
                complain("with the launcher it was started by, in place of `adhere`: accelerate launch ... -m adhere")
        raise typer.Exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED) from None


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C.

    Not where several processes train together: one that waits for another would not hear of it.
    """
    if ranks.launched() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = os.getpid()

    def terminate(number: int, frame: object) -> None:
        if os.getpid() == ours:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)  # a process that was forked off
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
