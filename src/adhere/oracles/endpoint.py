"""Any service that takes JSON and answers with JSON that has a number in it.

Texts are filled into the strings of a template that has been read already, never into its source: no text can change the
form of a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from adhere.errors import OracleError
from adhere.oracles.attempt import Json
from adhere.oracles.public import public_host
from adhere.oracles.remote import Pair, RemoteOracle, probability
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.version import version_of

_PLACE = re.compile(r"\{(prompt|output)\}")
_PLACES = {"{prompts}": 0, "{outputs}": 1}
EACH = "*"


class EndpointOracle(RemoteOracle):
    """Satisfied as the number says that stands at a place of the answer.

    Args:
        url: where the service is; asked by POST.
        request: JSON to send: `{output}` and `{prompt}` within strings are filled in; the strings `{outputs}` and
            `{prompts}` become lists of `batch_size` texts. The prompt is judged if it is sent.
        score_path: where the number is in the answer, as `result.0.score`; for lists `*` stands for each text.
        direction: whether the number is the probability that the rule is kept ("satisfied") or broken ("violation").
        key_variable: environment variable with the key; sent as `key_prefix` and the key in the header `key_header`.
        headers: further headers.
        threshold, soft, prefix_closed, limits, price: as in the recipe.
        version: change it when the service behind the address changes.
        name: what messages, files and tables call it; without it, the host's name.

    Raises:
        OracleError: the request holds no output, `score_path` does not fit it, or the environment variable is not set.
    """

    def __init__(
        self,
        url: str,
        request: Json,
        score_path: str,
        direction: Literal["satisfied", "violation"],
        *,
        key_variable: str | None = None,
        key_header: str = "Authorization",
        key_prefix: str = "Bearer ",
        headers: Mapping[str, str] | None = None,
        batch_size: int = 32,
        threshold: float = 0.5,
        soft: bool = False,
        prefix_closed: bool = False,
        limits: LimitsConfig | None = None,
        price: PriceConfig | None = None,
        version: str = "1",
        name: str | None = None,
    ) -> None:
        service: dict[str, Any] = {"key_variable": key_variable, "key_header": key_header, "key_prefix": key_prefix}
        super().__init__(
            name or public_host(url),
            url,
            threshold=threshold,
            soft=soft,
            prefix_closed=prefix_closed,
            limits=limits,
            price=price,
            headers=headers,
            **service,
        )
        self._request, self._path, self._direction = request, score_path.split("."), direction
        try:
            json.dumps(request, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise OracleError(f"oracle {self.name!r}: request is no JSON: {error}") from None
        holds = set(_placeholders(request))
        lists = holds & {"outputs", "prompts"}
        if not holds & {"output", "outputs"}:
            raise OracleError(
                f"oracle {self.name!r}: request holds neither {{output}} nor, as a string of its own, {{outputs}}, so "
                "nothing would be judged"
            )
        if lists and holds & {"output", "prompt"}:
            raise OracleError(f"oracle {self.name!r}: request is for one text, or for a list of them, not for both")
        if self._path.count(EACH) != (1 if lists else 0):
            place = f"{EACH} in it once, for each of {{outputs}}" if lists else f"no {EACH}: it is about one {{output}}"
            raise OracleError(f"oracle {self.name!r}: score_path must have {place}; got {score_path!r}")
        self.batch_size = batch_size if lists else 1
        self.judges_prompt = bool(holds & {"prompt", "prompts"})
        settings = [request, score_path, direction, dict(headers or {}), threshold, soft]
        self.version = version_of(kind="endpoint", url=url, settings=settings, version=version)

    def body(self, pairs: Sequence[Pair]) -> Json:
        return _filled(self._request, pairs)

    def read(self, answer: Json, body: Json) -> list[float]:
        return [self._score(value) for value in _at(answer, self._path)]

    def _score(self, value: Json) -> float:
        number = probability(value)
        return self._score_of(number if self._direction == "violation" else 1.0 - number)


def _placeholders(template: Json) -> list[str]:
    if isinstance(template, str):
        return [template.strip("{}")] if template in _PLACES else _PLACE.findall(template)
    parts = template.values() if isinstance(template, dict) else template if isinstance(template, (list, tuple)) else ()
    return [found for part in parts for found in _placeholders(part)]


def _filled(template: Json, pairs: Sequence[Pair]) -> Json:
    if isinstance(template, dict):
        return {key: _filled(value, pairs) for key, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [_filled(value, pairs) for value in template]
    if not isinstance(template, str):
        return template
    if template in _PLACES:
        return [pair[_PLACES[template]] for pair in pairs]
    prompt, output = pairs[0]
    # In one go: what is filled in is not looked through for places again.
    return _PLACE.sub(lambda found: output if found[1] == "output" else prompt, template)


def _at(answer: Json, path: Sequence[str]) -> list[Json]:
    """The values at a path; raises what indexing raises where there are none."""
    for number, key in enumerate(path):
        if key == EACH:
            if not isinstance(answer, list):
                raise TypeError("no list")
            return [value for part in answer for value in _at(part, path[number + 1 :])]
        answer = answer[int(key)] if isinstance(answer, list) else answer[key]
    return [answer]
