"""An oracle whose verdicts are kept on disk, so that nothing is asked, or paid for, twice."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from adhere.errors import OracleError
from adhere.oracles.base import Oracle, judge
from adhere.oracles.cache import VerdictCache
from adhere.oracles.remote import Pair, RemoteOracle
from adhere.oracles.spending import Spending


class CachedOracle(Oracle):
    """Another oracle, under its own name and version, that is asked only about what the cache does not know.

    Only verdicts are kept: where there was none, the oracle is asked again the next time. A cache that cannot be read or
    written costs calls, never verdicts: it is warned of once.

    Args:
        oracle: who judges.
        cache: where verdicts are kept; without it, in the cache folder of this machine.
    """

    def __init__(self, oracle: Oracle, cache: VerdictCache | None = None) -> None:
        self.oracle, self.cache = oracle, cache or VerdictCache()
        self.name, self.version = oracle.name, oracle.version
        self.prefix_closed, self.judges_prompt = oracle.prefix_closed, oracle.judges_prompt
        self.effort = oracle.effort
        self.spending = Spending()
        self._warned = False
        if isinstance(oracle, RemoteOracle):
            oracle.keep = self._keep  # soon: what follows may fail, or be killed

    @property
    def parts(self) -> tuple[Oracle, ...]:
        return (self.oracle,)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        pairs = list(zip(prompts, outputs, strict=True))
        known = self._known(list(dict.fromkeys(pairs)))
        asked = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        self.spending.calls_saved += len(known)
        said = judge(self.oracle, [prompt for prompt, _ in asked], [output for _, output in asked]) if asked else []
        fresh = {pair: score for pair, score in zip(asked, said, strict=True) if score is not None}
        if not isinstance(self.oracle, RemoteOracle):
            self._keep(list(fresh), list(fresh.values()))
        verdicts = {**known, **fresh}
        return [verdicts.get(pair) for pair in pairs]

    def close(self) -> None:
        """Close the cache's files, and the oracle's connections."""
        self.cache.close()
        if isinstance(self.oracle, RemoteOracle):
            self.oracle.close()

    def _known(self, pairs: Sequence[Pair]) -> dict[Pair, float]:
        digests = [self._digest(pair) for pair in pairs]
        try:
            found = self.cache.get(digests)
        except OracleError as error:
            self._warn(error)
            return {}
        return {pair: found[digest] for pair, digest in zip(pairs, digests, strict=True) if digest in found}

    def _keep(self, pairs: Sequence[Pair], scores: Sequence[float]) -> None:
        try:
            self.cache.put({self._digest(pair): score for pair, score in zip(pairs, scores, strict=True)})
        except OracleError as error:
            self._warn(error)

    def _digest(self, pair: Pair) -> str:
        prompt, output = pair
        return VerdictCache.digest(self.name, self.version, prompt if self.judges_prompt else None, output)

    def _warn(self, error: OracleError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"oracle {self.name!r} goes on without its cache: {error}", stacklevel=4)
