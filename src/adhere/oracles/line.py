"""The way out to a service: a thread with an event loop and a client, so that ordinary code can ask side by side."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from typing import Any

import httpx


@cache
def _certificates() -> ssl.SSLContext:
    """Who is trusted; read once, since that takes longer than many a request."""
    return httpx.create_ssl_context()


class Line:
    """A thread with an event loop and a client in it, kept for as long as the service is asked."""

    def __init__(self) -> None:
        self._loop, self._process = asyncio.new_event_loop(), os.getpid()
        self._clients: list[httpx.AsyncClient] = []
        thread = threading.Thread(target=self._loop.run_forever, name="adhere-oracle", daemon=True)
        thread.start()
        self._hang_up = weakref.finalize(self, _hang_up, self._loop, thread, self._process, self._clients)

    def usable(self) -> bool:
        """False in a process that was forked off, which has no such thread."""
        return self._process == os.getpid()

    def client(self) -> httpx.AsyncClient:
        """Called in the loop's thread."""
        if not self._clients:
            # Waiting is bounded from outside, to the last byte; connections by the number of workers.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            self._clients.append(
                httpx.AsyncClient(verify=_certificates(), follow_redirects=False, timeout=None, limits=limits)
            )
        return self._clients[0]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a coroutine; what interrupts the waiting stops it."""
        under_way = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            under_way.result()
        except BaseException:
            under_way.cancel()
            raise

    def close(self) -> None:
        """Hang up."""
        self._hang_up()


def _hang_up(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int, clients: list[httpx.AsyncClient]
) -> None:
    if process != os.getpid() or threading.current_thread() is thread:
        return
    for client in clients:
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    if not thread.is_alive():
        loop.close()
