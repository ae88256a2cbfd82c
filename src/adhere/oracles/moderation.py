"""A moderation service with OpenAI's interface: `POST /v1/moderations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adhere.oracles.attempt import Json
from adhere.oracles.remote import Pair, RemoteOracle, probability
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.version import version_of


class ModerationOracle(RemoteOracle):
    """Satisfied when no category applies to the output.

    Args:
        model: which of the service's models.
        url: where it is.
        key_variable: environment variable with the key, or None for a service without one.
        categories: those that must not apply; None for all.
        threshold: score above which a category applies; None for the service's own decision.
        soft: the score is 1 minus the highest of the categories' scores.
        batch_size: texts to a request.
        prefix_closed, limits, price: as in the recipe.
        name: what messages, files and tables call it; without it, the model's name.

    Raises:
        OracleError: the environment variable is not set.
    """

    def __init__(
        self,
        model: str = "omni-moderation-latest",
        *,
        url: str = "https://api.openai.com/v1/moderations",
        key_variable: str | None = "OPENAI_API_KEY",
        categories: Sequence[str] | None = None,
        threshold: float | None = None,
        soft: bool = False,
        batch_size: int = 32,
        prefix_closed: bool = False,
        limits: LimitsConfig | None = None,
        price: PriceConfig | None = None,
        name: str | None = None,
    ) -> None:
        service: dict[str, Any] = {"limits": limits, "price": price, "key_variable": key_variable}
        super().__init__(name or model, url, threshold=threshold, soft=soft, prefix_closed=prefix_closed, **service)
        self._model, self._categories = model, None if categories is None else tuple(categories)
        self.batch_size = batch_size
        listed = sorted(self._categories) if self._categories is not None else None
        self.version = version_of(kind="moderation", url=url, model=model, settings=[listed, threshold, soft])

    def body(self, pairs: Sequence[Pair]) -> Json:
        return {"model": self._model, "input": [output for _, output in pairs]}

    def read(self, answer: Json, body: Json) -> list[float]:
        return [self._score(result) for result in answer["results"]]

    def _score(self, result: Json) -> float:
        decided, scores = result["categories"], result["category_scores"]
        names = list(scores) if self._categories is None else self._categories
        highest = max(probability(scores[name]) for name in names)
        if self._soft or self._threshold is not None:
            return self._score_of(highest)
        if not all(isinstance(decided[name], bool) for name in names):
            raise TypeError("a decision is true or false")
        return float(not any(decided[name] for name in names))
