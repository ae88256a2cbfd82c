"""One HTTP service, asked side by side from ordinary code, within limits, and again where it fails.

Redirections are not followed, answers are read up to a bound, and the key is looked up in the environment for every
request and stands in no attribute, message, log or pickle.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp

from adhere.errors import AdhereError, OracleError
from adhere.oracles.attempt import Json, Unanswered, parsed, refusal
from adhere.oracles.line import Line
from adhere.oracles.pace import Pace
from adhere.oracles.public import check_key_variable, public_host, secrets_in
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.retries import tried
from adhere.oracles.spending import Spending

LARGEST_ANSWER = 16 * 2**20
_BYTES_A_TOKEN = 4
_LONGEST_DETAIL = 2000
_LARGE_BODY = 2**20  # aiohttp warns of a larger one that is not handed over in pieces

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
        role: what it does here, for messages: the oracle that asks, unless somebody else does.
        error: what is raised in place of OracleError where somebody else asks.

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
        role: str = "oracle",
        error: type[AdhereError] = OracleError,
    ) -> None:
        self._who, self._error = f"{role} {name!r}", error
        self._url, self.limits, self._price, self._spending = url, limits, price, spending
        self._key_variable, self._key_header, self._key_prefix = key_variable, key_header, key_prefix
        self._own_headers = dict(headers or {})
        self._requests, self._tokens = Pace(limits.requests_per_minute), Pace(limits.tokens_per_minute)
        self._left_alone_until = float("-inf")  # the service asked for it
        self.has_answered = False
        self.said = ""  # in the place of its first answer that can be read, as far as it may be shown
        self._line: Line | None = None
        if key_variable is not None:
            try:
                check_key_variable(key_variable)
            except ValueError as invalid:
                raise self._error(f"{self._who}: key_variable {invalid}") from None
        self.headers()

    @property
    def host(self) -> str:
        """For messages: the address without user, path and parameters."""
        return public_host(self._url)

    def ask_all(
        self,
        items: Iterable[Item],
        ask: Callable[[Item, float], Awaitable[None]],
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Call `ask` for every item, as many side by side as the limits allow.

        Args:
            items: taken as there is room for them.
            ask: gets the item and the time by which it must be done (`time.monotonic`); calls `answer`, and never raises
                `Unanswered`. It runs in another thread than this one.
            meanwhile: called in this thread, every `line.MOMENT` seconds until everything is asked.

        Raises:
            OracleError: from `ask`; the others are stopped. Or the environment names a proxy of another kind than HTTP.
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
            try:
                self._line = Line(self._url)
            except ValueError as error:
                raise self._error(f"{self._who}: {error}") from None
        self._line.run(everything(), meanwhile)

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
        try:
            return await tried(lambda: self._attempt(content, read, deadline), self.limits.attempts, deadline)
        except Unanswered as error:
            if error.scope == "service" and not self.has_answered:
                raise self._error(self._refused(error)) from None
            raise

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
        came = b""
        try:
            async with asyncio.timeout(seconds):
                came = await self._post(content)
            answer = parsed(came)
            self._count(answer, tokens)
            value = read(answer)
        except TimeoutError:
            raise Unanswered("no whole answer in time") from None
        except Unanswered as error:
            if error.retry_after is not None:
                self._left_alone_until = max(self._left_alone_until, time.monotonic() + error.retry_after)
            if not self.has_answered and not self.said:
                self.said = self._quoted(error.detail or came[:_LONGEST_DETAIL].decode("utf-8", "replace"))
            raise
        self.has_answered = True
        return value

    async def _turn(self, tokens: float, deadline: float) -> None:
        """Wait until the limits, and the service, allow a request."""
        now = time.monotonic()
        wait = max(self._requests.wait(now), self._tokens.wait(now), self._left_alone_until - now)
        if now + wait < deadline:  # a turn that nobody uses would be missing later
            self._requests.take(1, now)
            self._tokens.take(tokens, now)
        while True:
            if self._left_alone_until >= deadline:
                raise Unanswered("it asks to be left alone for longer than limits.budget allows", "later")
            if now + wait >= deadline:
                raise Unanswered("limits.budget ran out", "later")
            if wait <= 0:
                return
            await asyncio.sleep(wait)
            now = time.monotonic()
            wait = self._left_alone_until - now  # for an answer that came meanwhile

    async def _post(self, content: bytes) -> bytes:
        assert self._line is not None
        data = content if len(content) < _LARGE_BODY else io.BytesIO(content)
        try:
            async with self._line.post(self._url, data, self.headers()) as response:
                if response.status != 200:
                    raise refusal(response.status, response.headers, await _beginning(response))
                received = bytearray()
                async for chunk in response.content.iter_any():
                    received += chunk
                    if len(received) > LARGEST_ANSWER:
                        raise Unanswered(f"an answer of more than {LARGEST_ANSWER >> 20} MiB", "text")
                return bytes(received)
        except aiohttp.ClientSSLError:
            raise Unanswered("no TLS, or a certificate that is not trusted here (SSL_CERT_FILE)", "service") from None
        except aiohttp.ClientConnectorError:
            raise Unanswered("no connection") from None
        except (aiohttp.ClientError, ValueError) as error:
            # Its own words may quote what was sent.
            raise Unanswered(f"the connection failed ({type(error).__name__})") from None

    def headers(self) -> dict[str, str]:
        """What a request says besides its body, the key among it. Raises OracleError as the constructor."""
        headers = {**self._own_headers, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key_variable is not None:
            headers[self._key_header] = self._key_prefix + self._key()
        return headers

    def _key(self) -> str:
        variable = self._key_variable or ""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise self._error(
                f"{self._who} needs a key for {self.host} in the environment variable {variable}, which is "
                "not set: export it, or name another one (key_variable; null for a service without a key)"
            )
        if not (key.isascii() and key.isprintable()):
            raise self._error(
                f"{self._who}: the environment variable {variable} holds characters that no key has (line feeds, "
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
        said = self._quoted(error.detail)
        key = f"the key in {self._key_variable}" if self._key_variable else "that it wants no key (key_variable)"
        return (
            f"{self._who}: {self.host} refuses: {error.reason}{f' ({said})' if said else ''}. Check the address "
            f"(url), {key}, and that the account may use it"
        )

    def _quoted(self, told: str) -> str:
        """The beginning of what the service said, on one line; nothing where a secret is in it."""
        secrets = secrets_in(self._url)
        with suppress(self._error):
            secrets += [self._key()] if self._key_variable is not None else []
        if any(secret in told for secret in secrets):  # in all of it, though a part is shown
            return ""
        return " ".join("".join(c if c.isprintable() else " " for c in told[:300]).split())


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """What a refusal says, as far as it is worth reading."""
    received = b""
    async for chunk in response.content.iter_any():
        received += chunk
        if len(received) >= _LONGEST_DETAIL:
            break
    return received[:_LONGEST_DETAIL].decode("utf-8", "replace")


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
