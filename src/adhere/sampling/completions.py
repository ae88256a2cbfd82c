"""What a completions endpoint is asked, and what its answer says.

Servers differ in three things that matter here: whether they take the prompt as token ids, whether they give back the ids
that they drew, and whether they take (or refuse) settings that OpenAI does not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adhere.oracles.attempt import Json, Unanswered


@dataclass(frozen=True, slots=True)
class Manners:
    """How a server wants to be asked.

    `takes_ids`: a prompt may be token ids. `own_settings`: settings beyond OpenAI's are taken: those that would truncate,
    whatever the server's defaults, are then sent as off, and the ids that were drawn are asked for.
    """

    takes_ids: bool
    own_settings: bool


WAYS = (Manners(True, True), Manners(True, False), Manners(False, True), Manners(False, False))
"""From the best to the one that every server takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One output as a server tells of it; None where it says nothing.

    `log_probabilities` and `tokens` (their texts) are of the drawn tokens, in order. `read` and `written` count the tokens
    of the prompt and of the output, as the server does.
    """

    text: str
    finished: bool
    token_ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None
    log_probabilities: tuple[float, ...] | None
    tokens: tuple[str, ...] | None
    read: int | None
    written: int | None


def request(
    manners: Manners, model: str, prompt: str | Sequence[int], length: int, seed: int, ends: Sequence[int]
) -> dict[str, Any]:
    """The body that asks for one true sample of the model.

    Every setting that shapes the distribution is sent: what is left out, vLLM takes from the model's own generation
    settings (a temperature of 0.6, say), and p would be another.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt) if not isinstance(prompt, str) else prompt,
        "max_tokens": length,
        "seed": seed,
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logprobs": 1,
        "n": 1,
        "stream": False,
    }
    if manners.own_settings:
        body |= {
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "repeat_penalty": 1.0,  # as llama.cpp calls it
            "stop_token_ids": list(ends),
            "return_token_ids": True,
        }
    return body


def read(answer: Json) -> Answer:
    """The output in an answer.

    Raises:
        Unanswered: it is no completion, or not a whole one.
    """
    try:
        choice = answer["choices"][0]
        text, reason = choice["text"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unanswered("an answer without choices[0].text") from None
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise Unanswered(f"an output that ended by {str(reason)[:40]!r}, not by stop or length")
    usage = answer.get("usage")
    counts: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
    told = choice.get("logprobs")
    said: Mapping[str, Any] = told if isinstance(told, dict) else {}
    ids = _ids(choice.get("token_ids"))
    log_probabilities = _numbers(said.get("token_logprobs"))
    if ids is not None and log_probabilities is not None and len(ids) != len(log_probabilities):
        raise Unanswered(f"{len(log_probabilities)} log-probabilities for {len(ids)} tokens")
    return Answer(
        text,
        reason == "stop",
        ids,
        _ids(choice.get("prompt_token_ids")),
        log_probabilities,
        _texts(said.get("tokens")),
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _ids(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or any(_count(one) is None for one in value):
        return None
    return tuple(value)


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or not all(isinstance(one, int | float) and math.isfinite(one) for one in value):
        return None
    return tuple(float(one) for one in value)


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
