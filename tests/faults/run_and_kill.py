"""Trains recipes in processes that kill themselves (SIGKILL) at a stated point; `test_kill_and_resume` starts it.

Importing torch and transformers takes seconds, so it is done once: for every order, a line of JSON on stdin, a child is
forked that knows no more than a new process would. The answer is a line with the child's exit code, negative for a signal.

    {"recipe": "recipe.yaml", "resume": true, "log": "child.log", "kill": "fitting"}

Instead of a named point it may be struck at any (`strike`: what `strike.Strike` takes), and `cli` runs the words of a command
line instead: the answer is then its exit code.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from strike import Strike
from transformers import TrainerState

import adhere.data.batch_log
import adhere.guidance.fit
import adhere.guidance.guidance
import adhere.recipe.plan
import adhere.recipe.train
from adhere.files import append_whole
from adhere.recipe.load import load_recipe
from adhere.training.trainer import ConstrainedTrainer


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _at_call(number: int, original: Callable[..., Any], last: Callable[..., Any]) -> Callable[..., Any]:
    """`original` until its `number`-th call, which is `last` and then the end."""
    calls = 0

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            last(*arguments, **keywords)
            _die()
        return original(*arguments, **keywords)

    return call


def _nothing(*_: Any, **__: Any) -> None: ...


def _half_appended(path: Path, content: bytes) -> None:
    append_whole(path, content[: len(content) // 2])


def _until_half_saved(original: Callable[..., Any], last: str) -> Callable[..., None]:
    """`torch.save` until it comes to a file whose path ends like this: half of it is written."""

    def save(value: object, file: str, **keywords: Any) -> None:
        original(value, file, **keywords)
        if str(file).endswith(last):
            os.truncate(file, os.path.getsize(file) // 2)
            _die()

    return save


def _prepare(kill: str) -> None:
    """Patch what has to end the process. Batches of samples: 3 an iteration, of labels 3, each after a header."""
    log: Any = adhere.data.batch_log
    fit: Any = adhere.guidance.fit
    guidance: Any = adhere.guidance.guidance
    trainer: Any = ConstrainedTrainer
    train: Any = adhere.recipe.train
    if kill == "between two batches of samples":
        log.append_whole = _at_call(3, append_whole, _nothing)
    elif kill == "in the middle of a batch of samples":
        log.append_whole = _at_call(3, append_whole, _half_appended)
    elif kill == "in the middle of a batch of the second iteration's samples":
        log.append_whole = _at_call(8 + 4, append_whole, _half_appended)
    elif kill == "in the middle of a batch of labels":
        log.append_whole = _at_call(4 + 3, append_whole, _half_appended)
    elif kill == "in the middle of a measurement":
        log.append_whole = _at_call(16 + 3, append_whole, _half_appended)
    elif kill == "fitting":
        fit._loss = _at_call(3, fit._loss, _nothing)
    elif kill == "fitting in the second iteration":
        steps = int(os.environ["FIT_STEPS"])
        fit._loss = _at_call(steps + 2, fit._loss, _nothing)
    elif kill == "writing guidance":
        guidance.write_json_atomic = _at_call(1, guidance.write_json_atomic, _nothing)
    elif kill == "fine-tuning, between two micro-batches":
        trainer.compute_loss = _at_call(6, trainer.compute_loss, _nothing)
    elif kill == "writing the optimiser of a checkpoint":
        torch.save = _until_half_saved(torch.save, "checkpoint-4/optimizer.pt")
    elif kill == "before the last file of a checkpoint":
        TrainerState.save_to_json = _at_call(2, TrainerState.save_to_json, _nothing)  # type: ignore[method-assign]
    elif kill == "after the last checkpoint":
        train._save_model = _at_call(1, _nothing, _nothing)
    else:
        raise ValueError(kill)


def _run(order: dict[str, Any]) -> int:
    with _logged(order):
        return _done(order)


@contextlib.contextmanager
def _logged(order: dict[str, Any]) -> Iterator[None]:
    """What is printed goes to the log; by way of another process where no file of this one may grow any more."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    through = None
    if (order.get("strike") or {}).get("how") == "full":
        through = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        assert through.stdin is not None
        log = through.stdin.fileno()
    for stream in (1, 2):
        os.dup2(log, stream)
    # Anew: those of the parent take what they were opened on for what it still is.
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
    yield
    if through is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        with open(os.devnull, "wb") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
        through.communicate()


def _done(order: dict[str, Any]) -> int:
    try:
        if order.get("kill"):
            _prepare(order["kill"])
        strike = None
        if order.get("strike"):
            second = {**order, "strike": None, "log": f"{order['log']}.second", "resume": True}
            strike = Strike(order["strike"], Path(order["folder"]), lambda: _run(second))
            strike.arm()
        code = _carry_out(order)
        if strike is not None and "count" in order["strike"]:
            strike.write_counts()
        return code
    except BaseException:
        traceback.print_exc()
        return 1


def _carry_out(order: dict[str, Any]) -> int:
    if not order.get("cli"):
        adhere.recipe.train.train_recipe(load_recipe(Path(order["recipe"])), resume=order["resume"])
        return 0
    from adhere.cli.main import app

    try:
        sys.argv = ["adhere", *order["cli"]]
        app(order["cli"])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    torch.set_num_threads(1)
    adhere.recipe.plan._BENCH_SECONDS = 0.001
    if os.environ.get("EARLY_STOPPING") != "real":
        losses = itertools.count(0, -1)  # it keeps the last epoch: guidance is never that of a fresh NADO
        adhere.guidance.fit._held_out_loss = lambda *_: float(next(losses))
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = _run(json.loads(line))
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
