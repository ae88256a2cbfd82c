"""A language model that judges by a rule in words, behind any chat service with OpenAI's interface."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from adhere.errors import OracleError
from adhere.oracles.attempt import Json, Unanswered
from adhere.oracles.judge_messages import BROKEN, KEPT, SCHEMA, VERSION, messages
from adhere.oracles.remote import Pair, RemoteOracle, probability
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.version import version_of

Method = Literal["auto", "logprobs", "json"]

LEAST_MASS = 0.5
"""Probability that both verdicts together must have: a model that would rather say something else has given none."""
_ALTERNATIVES = 5  # log-probabilities of as many words: the most that all services give
_ROUNDING = 1e-3  # by which the logarithm of a probability may be above 0
_NO_LOGPROBS = "an answer without log-probabilities"
_NEITHER = f"a verdict that is neither {KEPT} nor {BROKEN}"


class JudgeOracle(RemoteOracle):
    """Satisfied when a language model says that the output keeps a rule.

    The probability is P(YES) / (P(YES) + P(NO)) of the first word of its answer, spellings of a word added up. Where the
    service gives no log-probabilities, the model writes a probability itself, as JSON. An answer that is neither is no
    verdict.

    Args:
        model: which model, as the service names it.
        rubric: the rule, in words.
        url: where the service is.
        key_variable: environment variable with the key, or None for a service without one.
        judges_prompt: show it the prompt as well.
        method: "logprobs" or "json"; "auto" takes the first, and the second where the service does not offer that.
        request: further keys of the request; None takes one of ours out.
        threshold: probability of a violation above which there is one; the score is 0 or 1.
        soft: the score is the probability that the rule is kept.
        prefix_closed, limits, price: as in the recipe.
        name: what messages, files and tables call it; without it, the model's name.

    Raises:
        OracleError: an empty rubric, or the environment variable is not set.
    """

    def __init__(
        self,
        model: str,
        rubric: str,
        *,
        url: str = "https://api.openai.com/v1/chat/completions",
        key_variable: str | None = "OPENAI_API_KEY",
        judges_prompt: bool = False,
        method: Method = "auto",
        request: Mapping[str, Any] | None = None,
        threshold: float = 0.5,
        soft: bool = False,
        prefix_closed: bool = False,
        limits: LimitsConfig | None = None,
        price: PriceConfig | None = None,
        name: str | None = None,
    ) -> None:
        service: dict[str, Any] = {"limits": limits, "price": price, "key_variable": key_variable}
        super().__init__(name or model, url, threshold=threshold, soft=soft, prefix_closed=prefix_closed, **service)
        if not rubric.strip():
            raise OracleError(f"oracle {self.name!r}: the rubric is empty; write the rule that the text must keep")
        try:
            json.dumps(dict(request or {}), allow_nan=False)
        except (ValueError, TypeError) as error:
            raise OracleError(f"oracle {self.name!r}: request is no JSON: {error}") from None
        self._model, self._rubric, self.judges_prompt = model, rubric, judges_prompt
        self._method, self._as_json = method, method == "json"
        self._request = dict(request or {})
        settings = [model, rubric, judges_prompt, method, self._request, threshold, soft]
        self.version = version_of(kind="judge", url=url, settings=settings, words=VERSION)

    def body(self, pairs: Sequence[Pair]) -> Json:
        ((prompt, output),) = pairs
        said = messages(self._rubric, prompt if self.judges_prompt else None, output, as_json=self._as_json)
        body: dict[str, Any] = {"model": self._model, "messages": said, "temperature": 0}
        if self._as_json:
            schema = {"name": "verdict", "strict": True, "schema": SCHEMA}
            body |= {"max_tokens": 64, "response_format": {"type": "json_schema", "json_schema": schema}}
        else:
            body |= {"max_tokens": 4, "logprobs": True, "top_logprobs": _ALTERNATIVES}
        return {key: value for key, value in {**body, **self._request}.items() if value is not None}

    def adapts(self, refused: Unanswered, body: Json) -> bool:
        if self._method != "auto" or "logprobs" not in body:
            return False
        if self.service.has_answered and not self._as_json:
            return False  # it gives them, if not this time
        if refused.reason != _NO_LOGPROBS and not (refused.scope == "text" and "logprob" in refused.detail.lower()):
            return False
        self._as_json = True  # from now on: all verdicts are to be of one kind
        return True

    def read(self, answer: Json, body: Json) -> list[float]:
        (choice,) = answer["choices"]
        kept = _told(choice.get("logprobs")) if "logprobs" in body else _written(choice["message"]["content"])
        return [self._score_of(1.0 - kept)]


def _told(logprobs: Json) -> float:
    """P(kept) from the log-probabilities of the first word of an answer.

    Raises:
        Unanswered: there are none, or the model would rather say something else.
    """
    if not logprobs or not logprobs.get("content"):
        raise Unanswered(_NO_LOGPROBS, "text")
    first = next((said for said in logprobs["content"] if said["token"].strip()), None)
    if first is None:
        raise Unanswered(_NEITHER, "text")
    alternatives = {said["token"]: said["logprob"] for said in [first, *first["top_logprobs"]]}
    mass = {KEPT: 0.0, BROKEN: 0.0}
    for token, log_probability in alternatives.items():
        word = token.strip(" \t\n\"'*.").upper()
        if log_probability > _ROUNDING:
            raise ValueError("no log-probability")
        if word in mass:
            mass[word] += math.exp(log_probability)
    total = mass[KEPT] + mass[BROKEN]
    if total < LEAST_MASS:
        raise Unanswered(_NEITHER, "text")
    return mass[KEPT] / total


def _written(content: Json) -> float:
    """P(kept) as the model wrote it.

    Raises:
        Unanswered: it is not as `SCHEMA` has it, or the probability says the opposite of the verdict.
    """
    try:
        said = json.loads(content)
    except ValueError:
        raise Unanswered(_NEITHER, "text") from None
    if not isinstance(said, dict) or said.keys() != SCHEMA["properties"].keys():
        raise Unanswered(_NEITHER, "text")
    kept = probability(said["probability"])
    if said["verdict"] not in (KEPT, BROKEN):
        raise Unanswered(_NEITHER, "text")
    if kept != 0.5 and (kept > 0.5) != (said["verdict"] == KEPT):
        raise Unanswered("a verdict that its own probability contradicts", "text")
    return kept
