"""Ctrl-C: say what is on disk, and the command that goes on from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from adhere import ranks
from adhere.cli.screen import command, complain

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
RESUME = "--resume"


@contextmanager
def resumable(context: typer.Context, folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into what was kept in the run folder, the exact command to resume, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        options = [] if RESUME in _typed(context) or not folder.exists() else [RESUME]
        _stop(kept(folder), f"Go on with:  {command(*_typed(context), *options)}")


@contextmanager
def stoppable(context: typer.Context, untouched: Path | None) -> Iterator[None]:
    """The same for work that writes its one file at its end, and so leaves nothing when it is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        left = f"Nothing was written to {untouched}." if untouched else "Nothing was written."
        _stop(left, f"Begin again with:  {command(*_typed(context))}")


@contextmanager
def repeatable(context: typer.Context, folder: Path) -> Iterator[None]:
    """The same for work in parts that is gone on with by typing the same again."""
    try:
        yield
    except KeyboardInterrupt:
        _stop(kept(folder), f"Go on with:  {command(*_typed(context))}")


@contextmanager
def continuable(context: typer.Context, left: str) -> Iterator[None]:
    """The same for work on one file that goes on where it was stopped; `left` says what is there."""
    try:
        yield
    except KeyboardInterrupt:
        _stop(left, f"Go on with:  {command(*_typed(context))}")


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
        iterations = [path for path in folder.rglob(f"{kind}/iteration-*.jsonl") if path.stat().st_size]
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


def _stop(*lines: str) -> None:
    if ranks.is_first():
        complain("", "Stopped.", *lines)
        if ranks.launched() > 1:
            complain("with the launcher it was started by, in place of `adhere`: accelerate launch ... -m adhere")
    raise typer.Exit(INTERRUPTED)
