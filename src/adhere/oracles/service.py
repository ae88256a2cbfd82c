"""One HTTP service, asked side by side from ordinary code, within limits, and again where it fails.

Redirections are not followed, answers are read up to a bound, and the key is looked up in the environment for every
request and stands in no attribute, message, log or pickle.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.stop import stop_base

from adhere.errors import OracleError
from adhere.oracles.attempt import Json, Unanswered, parsed, refusal
from adhere.oracles.line import Line
from adhere.oracles.pace import Pace
from adhere.oracles.remote_config import LimitsConfig, PriceConfig, check_key_variable
from adhere.oracles.spending import Spending

LARGEST_ANSWER = 16 * 2**20
FIRST_WAIT = 0.5
"""Seconds before the second attempt, at most; twice as many before each further one, up to `LONGEST_WAIT`."""
LONGEST_WAIT = 60.0
_BYTES_A_TOKEN = 4
_LONGEST_DETAIL = 2000

Item = TypeVar("Item")
Value = TypeVar("Value")


class Service:
    """An address that answers JSON with JSON.

    Args:
        name: what messages call the oracle that asks.
        url: where it is.
        limits: how it is asked.
        price: what an answer costs.
        spending: counts requests, tokens and money.
        key_variable: environment variable with the key, or None.
        key_header, key_prefix: how the key is sent.
        headers: further headers.

    Raises:
        OracleError: that is no variable, it is not set, or what it holds cannot be sent.
    """

    def __init__(
        self,
        name: str,
        url: str,
        limits: LimitsConfig,
        price: PriceConfig,
        spending: Spending,
        *,
        key_variable: str | None = None,
        key_header: str = "Authorization",
        key_prefix: str = "Bearer ",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._url, self.limits, self._price, self._spending = name, url, limits, price, spending
        self._key_variable, self._key_header, self._key_prefix = key_variable, key_header, key_prefix
        self._own_headers = dict(headers or {})
        self._requests, self._tokens = Pace(limits.requests_per_minute), Pace(limits.tokens_per_minute)
        self._left_alone_until = float("-inf")  # the service asked for it
        self.has_answered = False
        self._line: Line | None = None
        if key_variable is not None:
            try:
                check_key_variable(key_variable)
            except ValueError as error:
                raise OracleError(f"oracle {name!r}: key_variable {error}") from None
        self._headers()

    @property
    def host(self) -> str:
        """For messages: the address without path and parameters."""
        return urlsplit(self._url).netloc

    def ask_all(self, items: Iterable[Item], ask: Callable[[Item, float], Awaitable[None]]) -> None:
        """Call `ask` for every item, as many side by side as the limits allow.

        Args:
            items: taken as there is room for them.
            ask: gets the item and the time by which it must be done (`time.monotonic`); calls `answer`, and never raises
                `Unanswered`. It runs in another thread than this one.

        Raises:
            OracleError: from `ask`; the others are stopped.
        """
        deadline = time.monotonic() + self.limits.budget
        waiting = iter(items)

        async def work() -> None:
            for item in waiting:  # all workers take from one iterator
                await ask(item, deadline)

        async def everything() -> None:
            workers = [asyncio.ensure_future(work()) for _ in range(self.limits.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

        if self._line is None or not self._line.usable():
            self._line = Line()
        self._line.run(everything())

    async def answer(self, body: Json, read: Callable[[Json], Value], deadline: float) -> Value:
        """Send one request, again where that may help, and read its answer.

        Args:
            body: what to send.
            read: turns the answer into what is wanted; raises `Unanswered` where it cannot.
            deadline: after that no attempt begins or goes on.

        Raises:
            Unanswered: all attempts failed.
            OracleError: the service refuses every request (wrong key, wrong address), and has never answered one.
        """
        content = json.dumps(body, allow_nan=False).encode("ascii")

        attempts = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Unanswered) and error.scope == "now"),
            wait=_wait,
            stop=stop_after_attempt(self.limits.attempts) | _OutOfTime(deadline),
            reraise=True,
        )
        try:
            value: Value = await attempts(self._attempt, content, read, deadline)
        except Unanswered as error:
            if error.scope == "service" and not self.has_answered:
                raise OracleError(self._refused(error)) from None
            raise
        return value

    def close(self) -> None:
        """Close connections; asking again opens others."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_line": None}

    async def _attempt(self, content: bytes, read: Callable[[Json], Value], deadline: float) -> Value:
        tokens = len(content) / _BYTES_A_TOKEN
        await self._turn(tokens, deadline)
        seconds = min(self.limits.timeout, deadline - time.monotonic())
        self._spending.calls_made += 1
        try:
            async with asyncio.timeout(seconds):
                answer = parsed(await self._post(content))
        except TimeoutError:
            raise Unanswered("no whole answer in time") from None
        except Unanswered as error:
            if error.retry_after is not None:
                self._left_alone_until = max(self._left_alone_until, time.monotonic() + error.retry_after)
            raise
        self._count(answer, tokens)
        value = read(answer)
        self.has_answered = True
        return value

    async def _turn(self, tokens: float, deadline: float) -> None:
        """Wait until the limits, and the service, allow a request."""
        now = time.monotonic()
        if self._left_alone_until >= deadline:
            raise Unanswered("it asks to be left alone for longer than limits.budget allows", "later")
        wait = max(self._requests.wait(1, now), self._tokens.wait(tokens, now), self._left_alone_until - now)
        if now + wait >= deadline:
            raise Unanswered("limits.budget ran out", "later")
        if wait > 0:
            await asyncio.sleep(wait)

    async def _post(self, content: bytes) -> bytes:
        assert self._line is not None
        client = self._line.client()
        try:
            async with client.stream("POST", self._url, content=content, headers=self._headers()) as response:
                if response.status_code != 200:
                    raise refusal(response.status_code, response.headers, await _beginning(response))
                received = bytearray()
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > LARGEST_ANSWER:
                        raise Unanswered(f"an answer of more than {LARGEST_ANSWER >> 20} MiB", "text")
                return bytes(received)
        except httpx.TimeoutException:
            raise Unanswered("no whole answer in time") from None
        except httpx.ConnectError:
            raise Unanswered("no connection") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            # Its own words may quote what was sent.
            raise Unanswered(f"the connection failed ({type(error).__name__})") from None

    def _headers(self) -> dict[str, str]:
        headers = {**self._own_headers, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key_variable is not None:
            headers[self._key_header] = self._key_prefix + self._key()
        return headers

    def _key(self) -> str:
        variable = self._key_variable or ""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise OracleError(
                f"oracle {self._name!r} needs a key for {self.host} in the environment variable {variable}, which is "
                "not set: export it, or name another one (key_variable; null for a service without a key)"
            )
        if not (key.isascii() and key.isprintable()):
            raise OracleError(
                f"oracle {self._name!r}: the environment variable {variable} holds characters that no key has (line feeds, "
                "quotes of a word processor, ...)"
            )
        return key

    def _count(self, answer: Json, estimated: float) -> None:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        told = usage if isinstance(usage, dict) else {}
        sent, written = (_whole(told.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        self._spending.input_tokens += sent
        self._spending.output_tokens += written
        self._spending.money += self._price.per_call + 1e-6 * (
            sent * self._price.per_million_input_tokens + written * self._price.per_million_output_tokens
        )
        if sent:
            self._tokens.correct(sent + written - estimated)

    def _refused(self, error: Unanswered) -> str:
        said = " ".join("".join(c if c.isprintable() else " " for c in error.detail[:300]).split())
        with suppress(OracleError):
            if self._key_variable is not None and self._key() in said:
                said = ""
        key = f"the key in {self._key_variable}" if self._key_variable else "that it wants no key (key_variable)"
        return (
            f"oracle {self._name!r}: {self.host} refuses: {error.reason}{f' ({said})' if said else ''}. Check the address "
            f"(url), {key}, and that the account may use it"
        )


async def _beginning(response: httpx.Response) -> str:
    """What a refusal says, as far as it is worth reading."""
    received = b""
    async for chunk in response.aiter_bytes():
        received += chunk
        if len(received) >= _LONGEST_DETAIL:
            break
    return received[:_LONGEST_DETAIL].decode("utf-8", "replace")


class _OutOfTime(stop_base):
    """No attempt that would only begin after the deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() + retry_state.upcoming_sleep >= self._deadline


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, Unanswered) else None
    return asked if asked is not None else wait_random_exponential(FIRST_WAIT, LONGEST_WAIT)(state)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
