"""The trainer's end of a worker: starts the process, listens to it, and notices when it dies or falls silent."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

from adhere.errors import RefreshError
from adhere.guidance.labelling import Report
from adhere.guidance.worker import Message, Order

LOST = RefreshError.__name__
"""Error of a message about a process that is lost: it may come up when it is started again."""

_GRACE = 10.0  # seconds in which a process that was killed has to end


class WorkerLink:
    """The process, and what came from it."""

    def __init__(self, packed: bytes, log: Path, report: Report, timeout: float) -> None:
        self._report, self._timeout, self._log = report, timeout, log
        self._outcome: Message | None = None
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._connection, theirs = Pipe()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "adhere.guidance.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, pass_fds=[theirs.fileno()],
                start_new_session=True, env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            )  # fmt: skip
        theirs.close()
        self._last_sign = time.monotonic()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        with suppress(OSError):  # where it has died, that shows when its answer is waited for
            self._connection.send_bytes(packed)

    def ask(self, order: Order) -> None:
        """Give it a refresh to do."""
        self._outcome, self._last_sign = None, time.monotonic()
        with suppress(OSError):  # as above
            self._connection.send(order)

    def outcome(self, wait: float | None, ready: Callable[[str], None]) -> Message | None:
        """How the refresh ended: None when it has not, after `wait` seconds; without end where that is None."""
        until = None if wait is None else time.monotonic() + wait
        while self._outcome is None:
            try:
                left = self._last_sign + self._timeout - time.monotonic()
                pause = left if until is None else min(left, until - time.monotonic())
                message = self._inbox.get(timeout=max(0.0, pause)) if pause > 0 else self._inbox.get_nowait()
            except queue.Empty:
                if time.monotonic() - self._last_sign >= self._timeout:
                    self._outcome = Message("failed", self._hung(), error=LOST)
                elif until is not None and time.monotonic() >= until:
                    return None
                continue
            if message is None:
                self._outcome = self._died()
            elif message.kind == "ready":
                ready(message.text)
            elif message.kind == "event":
                if message.text:
                    meanwhile = {} if wait is None else {"meanwhile": True}
                    self._report(message.text, (message.numbers or {}) | meanwhile)
            else:
                self._outcome = message
        return self._outcome

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # in a system call that does not come back; it ends with it
            self.process.wait(_GRACE)
        self._listener.join(_GRACE)
        self._connection.close()

    def _listen(self) -> None:
        try:
            while True:
                message: Message = self._connection.recv()
                self._last_sign = time.monotonic()
                self._inbox.put(message)
        except (EOFError, OSError):
            self._inbox.put(None)

    def _hung(self) -> str:
        return (
            f"the worker gave no sign of life for {self._timeout:g} seconds (guidance.refresh_timeout), so it was taken for "
            "hung and ended"
        )

    def _died(self) -> Message:
        try:
            code = self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return Message("failed", "the worker closed its connection", error=LOST)
        if code < 0:
            why = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
            text = f"the worker was ended by signal {-code} ({signal.Signals(-code).name}{why})"
            return Message("failed", text, error=LOST)
        return Message("failed", f"the worker ended with exit code {code}; {self._log} may say why")
