"""The oracles' verdicts as one number for an output, and as the reward function that TRL's trainers call."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from adhere.baselines.whole_outputs import on_whole_outputs
from adhere.costs import Ledger
from adhere.errors import VerdictsMissingError
from adhere.guidance.constraint import Constraint
from adhere.guidance.labels import label
from adhere.oracles.base import violates
from adhere.records import Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Combination = Literal["product", "mean"]

WINDOW = 64
"""Outputs over which it is told whether too many are without a verdict: those of one step may be few."""


def combined(scores: Sequence[float | None], combination: Combination = "product") -> float | None:
    """One score of several constraints'; None where one of them is: what is not known is neither good nor bad."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    return math.prod(known) if combination == "product" else sum(known) / len(known)


class OracleReward:
    """Rewards outputs by what the oracles say of them; an output without a verdict gets None, which TRL leaves out.

    It is where every output of reinforcement learning passes once, so it notes what they cost.

    Args:
        constraints: whose oracles judge.
        tokenizer: decodes outputs as everywhere else.
        combination: of several constraints' scores.
        ledger: of the run folder.
        stage: what the steps are called there.
        max_without_verdict: largest share of the last outputs without a verdict that training goes on with.
    """

    __name__ = "oracle"  # what TRL's log calls it

    def __init__(
        self,
        constraints: Sequence[Constraint],
        tokenizer: PreTrainedTokenizerBase,
        combination: Combination,
        ledger: Ledger,
        stage: str,
        max_without_verdict: float = 1.0,
    ) -> None:
        self._constraints, self._tokenizer = on_whole_outputs(constraints), tokenizer
        self._combination: Combination = combination
        self._ledger, self._stage, self._allowed = ledger, stage, max_without_verdict
        self._recent: deque[dict[str, Verdict]] = deque(maxlen=WINDOW)

    def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        asked: Sequence[str],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """The reward of every output.

        Args:
            completion_ids: their tokens, up to the one that ends them.
            asked: the prompts as the user wrote them.
            trainer_state: of the trainer: at which step it is.
            log_metric: puts a number into the trainer's log.

        Raises:
            OracleError: an oracle broke its contract.
            VerdictsMissingError: too many of the last outputs have no verdict.
        """
        outputs = [
            str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for ids in completion_ids
        ]
        spent: Counter[str] = Counter(generated_outputs=len(outputs), generated_tokens=sum(map(len, completion_ids)))
        verdicts = label(self._constraints, self._tokenizer, asked, outputs, completion_ids, spent)
        self._ledger.record(f"{self._stage} outputs for step {trainer_state.global_step + 1}", **spent)
        for name in (constraint.name for constraint in self._constraints):
            known = [score for said in verdicts if (score := said[name].score) is not None]
            log_metric(f"no_verdict/{name}", float(len(verdicts) - len(known)))
            if known:
                log_metric(f"satisfaction/{name}", sum(not violates(score) for score in known) / len(known))
        self._recent.extend(verdicts)
        self._require_verdicts()
        return [combined([verdict.score for verdict in said.values()], self._combination) for said in verdicts]

    def _require_verdicts(self) -> None:
        for constraint in self._constraints if len(self._recent) == WINDOW else ():
            silent = sum(said[constraint.name].score is None for said in self._recent)
            if silent > self._allowed * WINDOW:
                why = constraint.oracle.trouble()
                raise VerdictsMissingError(
                    f"paused: {silent} of the last {WINDOW} outputs got no verdict from constraint {constraint.name!r} "
                    f"(guidance.max_without_verdict is {self._allowed:.0%}){f': {why}' if why else ''}. Nothing was "
                    "learned from them. When the oracle answers again, the same command with --resume goes on from the "
                    "last checkpoint; to go on without them, raise guidance.max_without_verdict"
                )
