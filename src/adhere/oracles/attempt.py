"""What can come of one request: an answer as JSON, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal

Json = Any

Scope = Literal["now", "later", "text", "service"]
"""What a failure is about: this moment (try again), this whole asking (a later pass may have more luck), these very texts,
or how the service is asked at all."""

_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_MISCONFIGURED = {401, 402, 403, 404, 405, 407, 410, 421, 451, 501}


class Unanswered(Exception):
    """A request that brought no verdicts; never leaves this package, where it turns into None.

    Attributes:
        reason: a few words that hold nothing of the texts, so that they can be counted and shown.
        scope: what it is about.
        retry_after: seconds that the service asks to be left alone; None where it does not say.
        detail: what the service said, to look for a word in; not shown.
    """

    def __init__(
        self, reason: str, scope: Scope = "now", *, retry_after: float | None = None, detail: str = ""
    ) -> None:
        super().__init__(reason)
        self.reason, self.scope, self.retry_after, self.detail = reason, scope, retry_after, detail


def refusal(status: int, headers: Mapping[str, str], detail: str) -> Unanswered:
    """Why a status other than 200 is no answer.

    Redirections are not followed: texts (and a key) would go to an address that nobody named.
    """
    named = f"{status} {_phrase(status)}".strip()
    if 300 <= status < 400:
        return Unanswered(f"{named}: it sends on to another address, which is not followed", "service")
    if status in _MISCONFIGURED:
        return Unanswered(named, "service", detail=detail)
    if status in _TRY_AGAIN or status >= 500:
        return Unanswered(named, "now", retry_after=_retry_after(headers.get("retry-after")), detail=detail)
    return Unanswered(named, "text", detail=detail)


def parsed(content: bytes) -> Json:
    """The JSON of an answer.

    Raises:
        Unanswered: it is none, or holds NaN or an infinity (which JSON has no form for).
    """
    try:
        return _STRICT.decode(content.decode("utf-8-sig"))  # json.loads would guess at UTF-16 too
    except (ValueError, RecursionError) as error:
        raise Unanswered("an answer that is no JSON") from error


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _retry_after(header: str | None) -> float | None:
    """Seconds, from a number or a date; None for anything else."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            when = parsedate_to_datetime(header)
        except (TypeError, ValueError, OverflowError):
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None  # NaN too


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(text)
    return number


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
