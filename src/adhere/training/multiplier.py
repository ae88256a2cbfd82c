"""Adaptive λ: dual ascent on measured satisfaction, for constraints with `multiplier: dual` (method.md §5).

The violation that L_LLM + λ·KL(q* ‖ p) settles at falls about as 1/λ: where a corpus satisfies with probability c and q* is
hard, −c·log s − (1 − c)·log(1 − s) − λ·log s is least where the odds of satisfaction are (c + λ) / (1 − c). So log-odds of
satisfaction are nearly a line of slope 1 in log λ, and the error in them says by how much log λ is wrong:

    m ← m + (1 − e^(−steps / lag)) · (log λ − m)                              (m starts at log weight)
    e = logit(target) − logit(measured) − (log λ − m)
    log λ ← log λ + gain · e · e² / (e² + Var[e])                             (within bounds, as weight is)

m is the log λ that the policy has followed so far: it comes after λ by `lag` steps, and what λ has moved already and the
policy has not answered yet is no error (Smith 1957). Without it λ is raised again and again while the policy is still on its
way. The measured log-odds are log((k + ½) / (n − k + ½)) of k satisfied outputs among n, nearly unbiased, with variance
1/(k + ½) + 1/(n − k + ½) (Haldane 1955, Anscombe 1956). The factor on e leaves alone what noise alone explains. Gain and
lag were chosen in simulated runs (`benchmarks/multiplier.py`).

No torch here: a few numbers, the same on every machine, so that a resumed run goes on with the very same λ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from adhere.guidance.constraint import Constraint, DualConfig
from adhere.training.satisfaction import Satisfaction

Verdict = Literal["reached", "not reached", "undecided"]


@dataclass(frozen=True, slots=True)
class MultiplierState:
    """λ of one constraint, and what it takes to go on with it."""

    log_multiplier: float
    log_followed: float  # m: the log λ that the policy has followed so far
    best: float | None = None  # best share since λ is at its highest
    best_high: float = 0.0  # and the upper end of its interval
    stalled: int = 0  # measurements since then that were no better
    given_up: bool = False
    step: int = 0  # of the last measurement; 0 before the first

    @classmethod
    def start(cls, weight: float) -> MultiplierState:
        return cls(math.log(weight), math.log(weight))


def updated(
    state: MultiplierState, measured: Satisfaction, target: float, dual: DualConfig, steps: int
) -> MultiplierState:
    """The state after a measurement.

    Args:
        state: before it.
        measured: satisfaction of the policy as it is now.
        target: the share asked for, in (0, 1).
        dual: gain, lag, bounds and patience.
        steps: taken since the measurement before, or since training began.
    """
    low, high = math.log(dual.lowest), math.log(dual.highest)
    unanswered = (state.log_multiplier - state.log_followed) * math.exp(-steps / dual.lag)
    error = max(-dual.max_step, min(dual.max_step, trusted_error(measured, target, unanswered)))
    moved = replace(
        state,
        log_multiplier=max(low, min(high, state.log_multiplier + dual.gain * error)),
        log_followed=state.log_multiplier - unanswered,
    )
    at_highest = state.log_multiplier >= high - 1e-9  # λ under which the policy came to be what was measured
    return _patient(moved, measured, at_highest and measured.interval[1] < target, dual.patience)


def trusted_error(measured: Satisfaction, target: float, expected: float = 0.0) -> float:
    """Distance to the target in log-odds, shrunk by the share of it that noise explains.

    Args:
        measured: satisfaction.
        target: the share asked for.
        expected: log-odds by which the policy is still to come nearer without any change of λ.
    """
    satisfied, violated = measured.share * measured.n + 0.5, (1 - measured.share) * measured.n + 0.5
    error = math.log(target / (1 - target)) - math.log(satisfied / violated) - expected
    variance = 1 / satisfied + 1 / violated
    return error**3 / (error**2 + variance)


def _patient(state: MultiplierState, measured: Satisfaction, failing: bool, patience: int) -> MultiplierState:
    """Count measurements that fail at the highest λ without getting better than noise."""
    if not failing:
        return replace(state, best=None, best_high=0.0, stalled=0)
    if state.best is None or measured.share > state.best_high:
        return replace(state, best=measured.share, best_high=measured.interval[1], stalled=0)
    stalled = state.stalled + 1
    return replace(state, stalled=stalled, given_up=state.given_up or stalled >= patience)


class Multipliers:
    """λ of every constraint of a run: those that are found move with measurements, the others stay.

    Args:
        constraints: of the run.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.adaptive = {c.name: c for c in constraints if c.adaptive}
        self._fixed = {c.name: c.weight for c in constraints if not c.adaptive}
        self._states = {name: MultiplierState.start(c.weight) for name, c in self.adaptive.items()}

    @property
    def values(self) -> dict[str, float]:
        """λ now, by constraint."""
        return self._fixed | {name: math.exp(state.log_multiplier) for name, state in self._states.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """λ now over the constraint's own weight: what a domain's own λ is multiplied by."""
        return dict.fromkeys(self._fixed, 1.0) | {
            name: math.exp(self._states[name].log_multiplier - math.log(c.weight)) for name, c in self.adaptive.items()
        }

    def update(self, name: str, measured: Satisfaction, step: int) -> bool:
        """Take up what was measured after so many steps; True when it is the measurement by which the target is given up."""
        constraint, before = self.adaptive[name], self._states[name]
        moved = updated(before, measured, constraint.target, constraint.dual, step - before.step)
        self._states[name] = replace(moved, step=step)
        return self._states[name].given_up and not before.given_up

    @property
    def stopped(self) -> bool:
        """True when a target was given up whose constraint stops the training then."""
        return any(self._states[n].given_up and c.dual.when_unreachable == "stop" for n, c in self.adaptive.items())

    def verdict(self, name: str, measured: Satisfaction) -> Verdict:
        """Whether the target is reached, by the last measurement.

        Reached: no more than `tolerance` below it. Not reached: below it by more than noise. Undecided: between the two.
        """
        constraint = self.adaptive[name]
        if measured.share >= constraint.target - constraint.dual.tolerance:
            return "reached"
        return "not reached" if measured.interval[1] < constraint.target else "undecided"

    def sentence(self, name: str, measured: Satisfaction) -> str:
        """The verdict for a person, with what it rests on."""
        said, target = self.verdict(name, measured), self.adaptive[name].target
        low, high = measured.interval
        between = "is not decided: too few outputs to tell" if said == "undecided" else said
        return (
            f"target {target:g} of {name} {between}: satisfaction {measured.share:.3f} ({low:.3f} to {high:.3f}, "
            f"n = {measured.n:.0f}) at λ = {self.values[name]:.3g}"
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """Everything as JSON values, for a checkpoint."""
        return {name: asdict(state) for name, state in self._states.items()}

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up what `state` gave; constraints that were not there begin at their weight."""
        for name, constraint in self.adaptive.items():
            found = state.get(name)
            self._states[name] = MultiplierState.start(constraint.weight) if found is None else MultiplierState(**found)
