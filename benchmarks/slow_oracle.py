"""An oracle as a service is: no profanity, answered after 20 ms, 8 at a time. `function: slow_oracle:score` in a recipe."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adhere.oracles.embedded import EmbeddedOracle

LATENCY, AT_ONCE = 0.02, 8


def score(outputs: list[str]) -> list[float | None]:
    """1 for an output without profanity, by the demo's oracle."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: time.sleep(LATENCY), outputs))
    return _judge().score([""] * len(outputs), outputs)


@cache
def _judge() -> EmbeddedOracle:
    from adhere.oracles.embedded import EmbeddedOracle

    return EmbeddedOracle()
