"""A referee behind an OpenAI-compatible chat endpoint, asked as remote oracles are (`oracles.service`).

The key is read from the environment for every request and stands nowhere else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from adhere.errors import OracleError, RecipeError
from adhere.evaluation.referee import Told, read_answer
from adhere.oracles.attempt import Json, Unanswered
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.service import Service
from adhere.oracles.spending import Spending

KEY = "ADHERE_REFEREE_KEY"
"""Environment variable with the key of any endpoint; without it, OPENAI_API_KEY goes to OpenAI and to nobody else."""

_OPENAI = ("api.openai.com", "OPENAI_API_KEY")
_PATH = "/chat/completions"
_LONGEST = 16  # tokens of an answer


class ChatReferee:
    """Asks one question a request, at temperature 0, several side by side.

    A question without a reply, after all attempts, gets None; when many in a row stay without one, nothing more is asked.

    Args:
        model: as the endpoint names it.
        url: its base (`https://host/v1`) or the whole address of its chat completions.
        limits: how it is asked.

    Raises:
        RecipeError: the address is none. OracleError: what the environment variable holds cannot be a key.
    """

    def __init__(self, model: str, url: str, limits: LimitsConfig | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise RecipeError(
                f"the referee {model!r} needs an address such as https://api.openai.com/v1 after the @, without a user or "
                "parameters"
            )
        self.name, self.model = model, model
        self.notes: list[str] = []
        self.spending = Spending()
        address = url.rstrip("/")
        self._service = Service(
            model,
            address if address.endswith(_PATH) else address + _PATH,
            limits or LimitsConfig(),
            PriceConfig(),
            self.spending,
            key_variable=_key_variable(parts.hostname),
        )

    def check(self) -> None:
        """Ask one question, so that a wrong address, key or model shows before anything is spent.

        Raises:
            OracleError: there is no usable reply; the message says why.
        """
        failures: Counter[str] = Counter()
        self._ask(["Answer with the letter A alone."], ("A",), failures, None)
        self._service.close()
        if failures:
            raise OracleError(
                f"the referee {self.model} cannot be used: {self._service.host} gave no answer to a first question "
                f"({next(iter(failures))}). Check that it is up, its address and the name of the model; its key is read "
                f"from {KEY} in the environment"
            )

    def answers(self, questions: Sequence[str], options: Sequence[str], told: Told | None = None) -> list[str | None]:
        failures: Counter[str] = Counter()
        try:
            found = self._ask(questions, options, failures, told)
        finally:
            self._service.close()
        if failures:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in failures.most_common(3))
            self.notes.append(
                f"{self.name} left {failures.total()} of {len(questions)} questions unanswered: {reasons}"
            )
        return found

    def _ask(
        self, questions: Sequence[str], options: Sequence[str], failures: Counter[str], told: Told | None
    ) -> list[str | None]:
        found: list[str | None] = [None] * len(questions)
        done = in_a_row = 0

        async def ask(number: int, deadline: float) -> None:
            nonlocal done, in_a_row
            done += 1
            if in_a_row > 2 * self._service.limits.concurrency:
                failures["not asked, since it had stopped answering"] += 1
                return
            try:
                reply = await self._service.answer(self._body(questions[number], options), _reply, deadline)
            except Unanswered as error:
                in_a_row += error.scope != "text"
                failures[error.reason] += 1
                return
            in_a_row = 0
            found[number] = read_answer(reply, options)
            if told is not None:
                told(done, len(questions))

        self._service.ask_all(range(len(questions)), ask)
        return found

    def _body(self, question: str, options: Sequence[str]) -> dict[str, Any]:
        asked = f"{question}\nAnswer with {' or '.join(options)} alone."
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": _LONGEST,
        }


def _key_variable(host: str) -> str | None:
    if os.environ.get(KEY):
        return KEY
    return _OPENAI[1] if host == _OPENAI[0] else None


def _reply(answer: Json) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise Unanswered("an answer of another form than a chat endpoint's", "text") from error
    return content if isinstance(content, str) else ""
