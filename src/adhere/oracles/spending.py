"""What asking an oracle has cost so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from adhere.oracles.base import Oracle


@dataclass(slots=True)
class Spending:
    """Counts since an oracle was built. It is read by threads other than the one that counts, so only ever added to.

    Attributes:
        calls_made: requests sent to a service, repeated ones included; for a local model, texts judged.
        calls_saved: verdicts that came from the cache instead.
        answered: verdicts that asking brought.
        no_verdict: verdicts given up, after all attempts; one that a later pass gets counts here all the same.
        input_tokens, output_tokens: as the service reports them; 0 where it does not.
        money: by the prices in the recipe, in whatever currency they are; 0 without prices.
    """

    calls_made: int = 0
    calls_saved: int = 0
    answered: int = 0
    no_verdict: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """The counts by their names."""
        return asdict(self)


def spending_of(*oracles: Oracle) -> Spending:
    """The sum over oracles and all that they are made of; zeros for those that cost nothing to ask."""
    total = Spending()
    for part in (part for oracle in oracles for part in _all_parts(oracle)):
        spent = getattr(part, "spending", None)
        if isinstance(spent, Spending):
            for name, amount in spent.as_dict().items():
                setattr(total, name, getattr(total, name) + amount)
    return total


def added(before: Spending, after: Spending) -> dict[str, Any]:
    """What was spent in between, of calls and money; nothing that is 0."""
    names = ("calls_made", "calls_saved", "money")
    amounts = {name: round(getattr(after, name) - getattr(before, name), 9) for name in names}
    return {name: amount for name, amount in amounts.items() if amount}


def _all_parts(oracle: Oracle) -> Iterator[Oracle]:
    yield oracle
    for part in oracle.parts:
        yield from _all_parts(part)
