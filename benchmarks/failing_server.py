"""A service that fails three calls in ten, each in one of the ways that services fail, and remembers what it has said.

The ways: 500, 429 with a time to wait, a reset connection, NaN, no JSON, half an answer, a number out of range.
"""

from __future__ import annotations

import json
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET

WAYS = ("500", "429", "reset", "NaN", "no JSON", "half an answer", "out of range")


@dataclass
class FailingServer:
    """What was asked of it."""

    url: str
    share: float
    calls: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    judged: dict[str, float] = field(default_factory=dict)  # by text, of those that got an answer


@contextmanager
def failing_server(share: float = 0.3, seed: int = 0) -> Iterator[FailingServer]:
    """Serve on a free port: `{"text": …}` gets `{"score": 0.0}` where the text holds a `z`, else 1.0; or a failure."""
    draw, lock = random.Random(seed), threading.Lock()
    told = FailingServer("", share)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            with lock:
                told.calls += 1
                way = draw.choice(WAYS) if draw.random() < share else ""
                if way:
                    told.failed[way] = told.failed.get(way, 0) + 1
                else:
                    told.judged[text] = 0.0 if "z" in text else 1.0
            self._answer(way, text)

        def _answer(self, way: str, text: str) -> None:
            if way == "reset":
                self.close_connection = True
                self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            content = {"NaN": b'{"score": NaN}', "no JSON": b"Sorry", "out of range": b'{"score": 1.7}'}.get(
                way, json.dumps({"score": told.judged.get(text, 1.0)}).encode()
            )
            self.send_response({"500": 500, "429": 429}.get(way, 200))
            if way == "429":
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(content) + 50 * (way == "half an answer")))
            self.end_headers()
            self.wfile.write(content)
            if way == "half an answer":
                self.close_connection = True

        def handle(self) -> None:
            with suppress(OSError):  # who asked has gone
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
