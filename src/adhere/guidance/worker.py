"""The worker: a process that makes guidance while another one trains. `python -m adhere.guidance.worker <descriptor>`.

It loads the model and the oracles once and then makes one guidance after the other, each from a snapshot. Samples, labels and
guidance go to the run folder; over the connection come orders, and go the signs of life, what happened, and how it ended.
It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adhere.guidance.portable import PortableModel

ALIVE_EVERY = 5.0
"""Seconds between two signs of life of a fit."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a worker works with, from its first refresh to its last."""

    model: PortableModel
    tokenizer: PreTrainedTokenizerBase
    constraints: bytes  # `pack_constraints`
    settings: dict[str, Any]  # of the `Refresher`
    device: str


@dataclass(frozen=True, slots=True)
class Order:
    """A refresh: of which iteration, from which snapshot, going on from which guidance."""

    iteration: int
    policy_step: int
    snapshot: Path
    previous: int | None
    threads: int


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker says: it is ready, something happened, a refresh is done, or has failed."""

    kind: Literal["ready", "event", "done", "failed"]
    text: str = ""  # of the event, its name; of a failure, what was raised
    numbers: dict[str, Any] | None = None
    error: str = ""  # the class of an AdhereError
    may_be_mended: bool = True


def main(descriptor: int) -> None:
    """Work until the other end of the connection is closed."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which closes the connection
    connection = Connection(descriptor)
    packed, orders = connection.recv_bytes(), queue.SimpleQueue[Any]()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    try:
        work = _bench(packed, connection.send)
    except BaseException as error:
        connection.send(failure(error))
        raise
    while True:
        order = orders.get()
        try:
            start = time.monotonic()
            work(order)
            connection.send(Message("done", numbers={"seconds": time.monotonic() - start}))
        except Exception as error:
            traceback.print_exc()
            connection.send(failure(error))


def _bench(packed: bytes, send: Callable[[Message], None]) -> Callable[[Order], None]:
    """Load everything; what comes back carries out an order."""
    import cloudpickle
    import torch
    from transformers.utils import logging

    from adhere.guidance.guidance import Guidance
    from adhere.guidance.portable import unpack_constraints
    from adhere.guidance.refresh import Refresher, Request
    from adhere.models.frozen import FrozenModel, fast_dtype

    logging.disable_progress_bar()
    shop: Workshop = cloudpickle.loads(packed)
    device, last_sign = torch.device(shop.device), time.monotonic()
    model = shop.model.build().to(device)  # type: ignore[arg-type]
    reference = FrozenModel(model, fast_dtype(device))
    policy = FrozenModel(model, fast_dtype(device))
    del model

    def alive(*_: int) -> None:
        nonlocal last_sign
        if time.monotonic() - last_sign > ALIVE_EVERY:
            last_sign = time.monotonic()
            send(Message("event"))

    refresher = Refresher(
        tokenizer=shop.tokenizer,
        reference=reference,
        constraints=unpack_constraints(shop.constraints),
        report=lambda name, numbers: send(Message("event", name, {"time": time.time(), **numbers})),
        alive=alive,
        **shop.settings,
    )
    send(Message("ready", reference.digest()))

    def work(order: Order) -> None:
        torch.set_num_threads(order.threads)
        previous = None
        if order.previous is not None:
            previous = Guidance.load(refresher.guidance_folder(order.previous), reference.embeddings_VD)
        policy.load(order.snapshot)
        with policy.lent() as still:
            refresher.run(Request(order.iteration, order.policy_step, order.policy_step, previous), still)

    return work


def failure(error: BaseException) -> Message:
    """An error as a message: other processes need not have its class."""
    from adhere.errors import AdhereError
    from adhere.guidance.executors import may_be_mended

    if isinstance(error, AdhereError):
        return Message("failed", str(error), None, type(error).__name__, may_be_mended(error))
    return Message("failed", f"{type(error).__name__}: {error}".strip(), None, "", may_be_mended(error))


def _listen(connection: Connection, orders: queue.SimpleQueue[Any]) -> None:
    """Pass orders on; when the trainer is gone, so is this process, whatever it is doing."""
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _end_with_parent() -> None:
    """On Linux the kernel sees to it as well."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    from adhere.guidance import worker  # so that its classes have one name, here and where they are read

    worker.main(int(sys.argv[1]))
