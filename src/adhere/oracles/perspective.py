"""Google's Perspective. Legacy: its makers end the service on 2026-12-31, and give out no new keys."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import date

from adhere.oracles.attempt import Json
from adhere.oracles.remote import Pair, RemoteOracle, probability
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.version import version_of

ENDS = date(2026, 12, 31)


class PerspectiveOracle(RemoteOracle):
    """Satisfied when an attribute of Perspective is absent; warns that the service ends.

    Args:
        attribute: such as TOXICITY.
        languages: of the texts; empty to let the service find out.
        url: where it is, or a service that speaks the same language.
        key_variable: environment variable with the key.
        threshold, soft, prefix_closed, limits, price: as in the recipe.
        name: what messages, files and tables call it.

    Raises:
        OracleError: the environment variable is not set.
    """

    def __init__(
        self,
        attribute: str = "TOXICITY",
        *,
        languages: Sequence[str] = ("en",),
        url: str = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze",
        key_variable: str | None = "PERSPECTIVE_API_KEY",
        threshold: float = 0.5,
        soft: bool = False,
        prefix_closed: bool = False,
        limits: LimitsConfig | None = None,
        price: PriceConfig | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            name or f"perspective {attribute}",
            url,
            threshold=threshold,
            soft=soft,
            prefix_closed=prefix_closed,
            limits=limits or LimitsConfig(requests_per_minute=60),
            price=price,
            key_variable=key_variable,
            key_header="X-Goog-Api-Key",  # in the address, where examples put it, it would end up in logs
            key_prefix="",
        )
        self._attribute, self._languages = attribute, list(languages)
        self.version = version_of(
            kind="perspective", url=url, attribute=attribute, settings=[self._languages, threshold, soft]
        )
        warnings.warn(
            f"oracle {self.name!r}: Perspective is a legacy service that ends on {ENDS}; what it judges cannot be judged "
            "again after that. A classifier, a moderation service or a judge takes its place (docs/oracles.md)",
            stacklevel=2,
        )

    def body(self, pairs: Sequence[Pair]) -> Json:
        ((_, output),) = pairs
        asked: dict[str, object] = {
            "comment": {"text": output},
            "requestedAttributes": {self._attribute: {}},
            "doNotStore": True,
        }
        return asked | ({"languages": self._languages} if self._languages else {})

    def read(self, answer: Json, body: Json) -> list[float]:
        value = answer["attributeScores"][self._attribute]["summaryScore"]["value"]
        return [self._score_of(probability(value))]
