"""The way out to a service: a thread with an event loop and a client, so that ordinary code can ask side by side.

By aiohttp: a request costs the processor a fifth of a millisecond there, one by httpx one to two, which with many requests
side by side is what would set the pace, not the service.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import wait
from contextlib import AbstractAsyncContextManager, suppress
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi

MOMENT = 0.05
"""Seconds between two times that what came is handed on to be put on disk."""


@cache
def _certificates() -> ssl.SSLContext:
    """Who is trusted; read once, since that takes longer than many a request."""
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")  # OpenSSL reads them itself
    return ssl.create_default_context(cafile=None if named else certifi.where())


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address (HTTPS_PROXY, ALL_PROXY, ...), unless NO_PROXY has it.

    Raises:
        ValueError: it is none that can be asked over HTTP; a password in it is not repeated.
    """
    parts, proxies = urlsplit(url), getproxies()
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    with suppress(ValueError):  # of a port that is none
        named = urlsplit(proxy)
        if named.scheme in ("http", "https") and named.hostname and named.port != 0:
            return proxy
    raise ValueError(
        f"the environment names a proxy for {parts.scheme} (as {parts.scheme.upper()}_PROXY or ALL_PROXY) that is no "
        "http://host:port; others, such as SOCKS, are not spoken: name another one, or except the service with NO_PROXY"
    )


class Line:
    """A thread with an event loop and a client in it, kept for as long as the service is asked.

    Args:
        url: of the service; decides the proxy.

    Raises:
        ValueError: the proxy is none that can be asked over HTTP.
    """

    def __init__(self, url: str) -> None:
        self._proxy = proxy_for(url)
        self._loop, self._process = asyncio.new_event_loop(), os.getpid()
        self._clients: list[aiohttp.ClientSession] = []
        thread = threading.Thread(target=self._loop.run_forever, name="adhere-oracle", daemon=True)
        thread.start()
        self._hang_up = weakref.finalize(self, _hang_up, self._loop, thread, self._process, self._clients)

    def usable(self) -> bool:
        """False in a process that was forked off, which has no such thread."""
        return self._process == os.getpid()

    def post(
        self, url: str, data: bytes | BytesIO, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request; called in the loop's thread. Redirections are not followed."""
        if not self._clients:
            # Waiting is bounded from outside, to the last byte; connections by the number of workers. The environment is
            # not trusted as a whole: it would add what ~/.netrc has for the host to every request.
            connector = aiohttp.TCPConnector(limit=0, ssl=_certificates() if url.startswith("https") else True)
            no_timeout, no_cookies = aiohttp.ClientTimeout(total=None, sock_connect=None), aiohttp.DummyCookieJar()
            self._clients.append(
                aiohttp.ClientSession(connector=connector, timeout=no_timeout, cookie_jar=no_cookies, trust_env=False)
            )
        return self._clients[0].post(url, data=data, headers=headers, allow_redirects=False, proxy=self._proxy)

    def run(self, work: Coroutine[Any, Any, None], meanwhile: Callable[[], None] | None = None) -> None:
        """Wait for a coroutine, and call `meanwhile` every `MOMENT` seconds; what interrupts the waiting stops it."""
        under_way = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while meanwhile is not None and not wait([under_way], MOMENT).done:
                meanwhile()
            under_way.result()
        except BaseException:
            under_way.cancel()
            raise

    def close(self) -> None:
        """Hang up."""
        self._hang_up()


def _hang_up(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int, clients: list[aiohttp.ClientSession]
) -> None:
    if process != os.getpid() or threading.current_thread() is thread:
        return
    for client in clients:
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(client.close(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    if not thread.is_alive():
        loop.close()
