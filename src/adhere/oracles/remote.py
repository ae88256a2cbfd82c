"""What all oracles behind a service share: batches, missing verdicts, and what it cost.

A text that brings no verdict gets None and is counted with the reason. Nothing that a service may do turns into a score:
not an answer for other texts, not one with a number too few, not NaN.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from adhere.oracles.attempt import Json, Unanswered
from adhere.oracles.base import Effort, Oracle
from adhere.oracles.remote_config import LimitsConfig, PriceConfig
from adhere.oracles.service import Service
from adhere.oracles.spending import Spending

Pair = tuple[str, str]
"""A prompt (empty where it is not judged) and an output."""
Keep = Callable[[Sequence[Pair], Sequence[float]], None]
"""Told of verdicts soon after they come, in the thread that asks, so that they are safe when what follows fails."""

_REASONS_TOLD = 3


class RemoteOracle(Oracle):
    """Asks a service.

    Subclasses set what `Oracle` wants and write `body` and `read`; `batch_size` is how many texts they put in one request.

    Args:
        name: of the oracle.
        url: where the service is.
        threshold, soft: of the probability of a violation; None as threshold where the subclass decides.
        limits, price: how it is asked and what that costs.
        service: key and headers, as `Service` takes them.

    Raises:
        OracleError: the environment variable with the key is not set.
    """

    effort = Effort.SERVICE
    batch_size = 1
    keep: Keep | None = None

    def __init__(
        self,
        name: str,
        url: str,
        *,
        threshold: float | None,
        soft: bool,
        prefix_closed: bool,
        limits: LimitsConfig | None,
        price: PriceConfig | None,
        **service: Any,
    ) -> None:
        self.name, self.prefix_closed = name, prefix_closed
        self.spending = Spending()
        self.service = Service(name, url, limits or LimitsConfig(), price or PriceConfig(), self.spending, **service)
        self._threshold, self._soft = threshold, soft
        self._reasons: Counter[str] = Counter()
        self._failed_in_a_row = 0
        self._came: list[tuple[Pair, float]] = []  # and `keep` was not told yet

    @abstractmethod
    def body(self, pairs: Sequence[Pair]) -> Json:
        """What to send for at most `batch_size` texts."""

    @abstractmethod
    def read(self, answer: Json, body: Json) -> list[float]:
        """The scores in the answer to `body`, one for each text. What is not as it should be may raise what it likes."""

    def adapts(self, refused: Unanswered, body: Json) -> bool:
        """True when the same texts should be asked about in another way, which `body` now takes."""
        return False

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        pairs = [(_sendable(prompt), _sendable(output)) for prompt, output in zip(prompts, outputs, strict=True)]
        unique = list(dict.fromkeys(pairs))
        found: dict[Pair, float] = {}
        self._failed_in_a_row = 0

        async def ask(batch: Sequence[Pair], deadline: float) -> None:
            await self._ask(batch, deadline, found)

        if unique:
            try:
                self.service.ask_all(_batches(unique, self.batch_size), ask, meanwhile=self._hand_over)
            finally:
                self._hand_over()
        return [found.get(pair) for pair in pairs]

    def trouble(self) -> str:
        told = ", ".join(f"{count} × {reason}" for reason, count in self._reasons.most_common(_REASONS_TOLD))
        said = f" (it said: {self.service.said})" if self.service.said and not self.service.has_answered else ""
        return f"{self.name}, asked at {self.service.host}: {told}{said}" if told else ""

    def close(self) -> None:
        """Close connections; asking again opens others."""
        self.service.close()

    async def _ask(self, batch: Sequence[Pair], deadline: float, found: dict[Pair, float]) -> None:
        if self._failed_in_a_row > 2 * self.service.limits.concurrency:
            self._miss("not asked, since it had stopped answering", len(batch))
            return
        body = self.body(batch)
        try:
            scores = await self.service.answer(body, lambda answer: self._read(answer, body, len(batch)), deadline)
        except Unanswered as error:
            if self.adapts(error, body):
                await self._ask(batch, deadline, found)
                return
            self._failed_in_a_row += error.scope in ("now", "service")
            if error.scope in ("now", "text") and len(batch) > 1:
                # One text that the service will not, or cannot, judge must not cost its neighbours their verdicts.
                for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                    await self._ask(half, deadline, found)
            else:
                self._miss(error.reason, len(batch))
            return
        self._failed_in_a_row = 0
        found.update(zip(batch, scores, strict=True))
        self.spending.answered += len(batch)
        self._came += zip(batch, scores, strict=True)

    def _hand_over(self) -> None:
        """Tell `keep` of what came; never in the thread that talks to the service, which a slow disk would hold up."""
        came, self._came = self._came, []
        if came and self.keep is not None:
            self.keep([pair for pair, _ in came], [score for _, score in came])

    def _read(self, answer: Json, body: Json, texts: int) -> list[float]:
        try:
            scores = self.read(answer, body)
        except Unanswered:
            raise
        except Exception as error:
            raise Unanswered("an answer of another form than expected") from error
        if len(scores) != texts:
            raise Unanswered("an answer with another number of verdicts than texts")
        return scores

    def _miss(self, reason: str, texts: int) -> None:
        self._reasons[reason] += texts
        self.spending.no_verdict += texts

    def _score_of(self, violation: float) -> float:
        """The score of a text that violates with this probability."""
        if self._soft:
            return 1.0 - violation
        assert self._threshold is not None
        return float(violation <= self._threshold)


def probability(value: object) -> float:
    """A number from an answer that must be a probability.

    Raises:
        Unanswered: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise Unanswered("a score that is no number from 0 to 1")
    return float(value)


def _batches(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _sendable(text: str) -> str:
    """Half a surrogate pair is no text to a service: it is judged as the question mark that it is shown as."""
    return text.encode("utf-8", "replace").decode("utf-8")
