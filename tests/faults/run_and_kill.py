"""Trains recipes in processes that kill themselves (SIGKILL) at a stated point; `test_kill_and_resume` starts it.

Importing torch and transformers takes seconds, so it is done once: for every order, a line of JSON on stdin, a child is
forked that knows no more than a new process would. The answer is a line with the child's exit code, negative for a signal.

    {"recipe": "recipe.yaml", "resume": true, "log": "child.log", "kill": "fitting"}
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
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
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        if order["kill"]:
            _prepare(order["kill"])
        adhere.recipe.train.train_recipe(load_recipe(Path(order["recipe"])), resume=order["resume"])
        return 0
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    torch.set_num_threads(1)
    adhere.recipe.plan._BENCH_SECONDS = 0.001
    losses = itertools.count(0, -1)  # early stopping keeps the last epoch: guidance is never that of a fresh NADO
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
