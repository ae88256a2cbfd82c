"""A service that answers after a fixed time and costs next to nothing, so that who asks is what is measured.

    python benchmarks/load_server.py --milliseconds 20    # prints its address, serves until its standard input is closed

It speaks as much HTTP/1.1 (keep-alive) as the oracles need: `POST /score` answers a generic JSON endpoint, `POST
/moderations` as OpenAI's moderation does. A text that holds a `z` violates. `POST /taken` says how many seconds the answers
took since it was last asked, from the last byte read to the first one written.

It waits by `select`, whose timers go by the microsecond: those of `epoll` go by the millisecond, so that answers would come
late and several at a time, as no service far away gives them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import selectors
import sys
import time
from typing import Any

_NO_VIOLATION: dict[str, Any] = {"categories": {"hate": False}, "category_scores": {"hate": 0.01}}
_VIOLATION: dict[str, Any] = {"categories": {"hate": True}, "category_scores": {"hate": 0.99}}


class Taken:
    """How long answers took that were to take `planned` seconds."""

    def __init__(self, planned: float) -> None:
        self.answers, self.seconds, self.planned = 0, 0.0, planned

    def note(self, seconds: float) -> None:
        """One more answer took so long."""
        self.answers += 1
        self.seconds += seconds

    def told(self) -> dict[str, float]:
        """The sums, which begin anew."""
        said = {"answers": self.answers, "seconds": self.seconds}
        self.answers, self.seconds = 0, 0.0
        return said


class Answers(asyncio.Protocol):
    """One connection; requests on it come one after the other, as the client waits for each answer."""

    def __init__(self, taken: Taken) -> None:
        self._taken, self._received = taken, b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return
        self._received = b""
        start, path = time.perf_counter(), head.split(b" ", 2)[1]
        asked_how_long = path.startswith(b"/taken")
        content = json.dumps(self._taken.told() if asked_how_long else answer(path, json.loads(body))).encode()
        said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
            len(content),
            content,
        )
        if asked_how_long:
            self._say(said, None)
        else:
            asyncio.get_running_loop().call_later(self._taken.planned, self._say, said, start)

    def _say(self, said: bytes, start: float | None) -> None:
        if start is not None:
            self._taken.note(time.perf_counter() - start)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(said)


def answer(path: bytes, asked: Any) -> Any:
    """What is said of the texts."""
    if path.startswith(b"/moderations"):
        return {"results": [_VIOLATION if "z" in text else _NO_VIOLATION for text in asked["input"]]}
    return {"risk": 0.99 if "z" in asked["text"] else 0.01}


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve(seconds: float) -> None:
    """Serve on a free port until standard input ends."""
    loop, taken = asyncio.get_running_loop(), Taken(seconds)
    server = await loop.create_server(lambda: Answers(taken), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--milliseconds", type=float, default=20.0)
    exact = asyncio.SelectorEventLoop(selectors.SelectSelector())
    exact.run_until_complete(serve(parser.parse_args().milliseconds / 1000))
