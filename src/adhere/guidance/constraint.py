"""A rule the outputs must satisfy, how far, and how hard the training holds to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adhere.errors import RecipeError
from adhere.oracles.base import Oracle

Multiplier = Literal["fixed", "dual"]


class DualConfig(BaseModel):
    """How λ is found when it is left to the training (`multiplier: dual`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gain: float = Field(
        0.3,
        gt=0.0,
        le=2.0,
        description="share of the distance to the target, in log-odds, by which a measurement moves log λ",
    )
    lag: float = Field(
        12.0,
        gt=0.0,
        allow_inf_nan=False,
        description="optimiser steps in which a policy goes 63 % of the way to where a new λ pulls it: what it has not gone "
        "yet is not asked for again",
    )
    max_step: float = Field(2.0, gt=0.0, description="largest distance that one measurement may report, in log-odds")
    lowest: float = Field(0.01, gt=0.0, allow_inf_nan=False, description="λ never goes below this")
    highest: float = Field(100.0, gt=0.0, allow_inf_nan=False, description="λ never goes above this")
    tolerance: float = Field(
        0.01, gt=0.0, lt=1.0, description="the target counts as reached when satisfaction is less than this below it"
    )
    patience: int = Field(
        4,
        ge=1,
        description="measurements with λ at its highest and satisfaction below the target, none of them better than "
        "the best before by more than noise, after which the target is given up",
    )
    when_unreachable: Literal["stop", "continue"] = Field(
        "stop", description="what training does when the target is given up"
    )

    @model_validator(mode="after")
    def _a_range(self) -> DualConfig:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest ({self.lowest:g}) must be below highest ({self.highest:g})")
        return self


def dual_problem(target: float, weight: float, dual: DualConfig) -> str | None:
    """What keeps λ from being found for this target from this start, or None: said by recipe and `Constraint` alike."""
    if target >= 1.0:
        return (
            "target must be below 1 with multiplier dual, got 1: no finite λ makes every output satisfy it, and no number "
            "of samples shows it; ask for 0.99, say"
        )
    if not dual.lowest <= weight <= dual.highest:
        return (
            f"weight must be in [{dual.lowest:g}, {dual.highest:g}] (dual.lowest, dual.highest) with multiplier dual, which "
            f"starts there, got {weight:g}"
        )
    return None


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint of a training run.

    Args:
        oracle: judges whole outputs.
        target: δ in (0, 1]: the satisfaction asked for at every prompt; 1 is the hard constraint. With `multiplier`
            dual, the share of all outputs that is to satisfy it, below 1.
        weight: λ, how hard the policy is pulled to the closest distribution that satisfies it. With `multiplier` dual,
            where λ starts.
        name: how logs and files call it; the oracle's name when left out.
        multiplier: fixed, or dual: λ is found by dual ascent on measured satisfaction (`training.multiplier`).
        dual: how it is found; a dictionary will do.

    Raises:
        RecipeError: something out of range.
    """

    oracle: Oracle
    target: float = 1.0
    weight: float = 2.0
    name: str = ""
    multiplier: Multiplier = "fixed"
    dual: DualConfig = field(default_factory=DualConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.oracle, Oracle):
            raise RecipeError(
                f"Constraint.oracle must be an Oracle, got {type(self.oracle).__name__}; wrap a function in CallableOracle"
            )
        if not 0.0 < self.target <= 1.0:
            raise RecipeError(f"Constraint.target must be in (0, 1], got {self.target}")
        if not (self.weight >= 0.0 and math.isfinite(self.weight)):
            raise RecipeError(f"Constraint.weight must be a number ≥ 0, got {self.weight}")
        if self.multiplier not in ("fixed", "dual"):
            raise RecipeError(f"Constraint.multiplier must be fixed or dual, got {self.multiplier!r}")
        if isinstance(self.dual, dict):
            try:
                object.__setattr__(self, "dual", DualConfig(**self.dual))
            except ValidationError as error:
                raise RecipeError(f"Constraint.dual: {error}") from error
        if self.adaptive and (problem := dual_problem(self.target, self.weight, self.dual)):
            raise RecipeError(f"Constraint.{problem}")
        if not self.name:
            object.__setattr__(self, "name", self.oracle.name)

    @property
    def adaptive(self) -> bool:
        """True when λ is found in training."""
        return self.multiplier == "dual"

    @property
    def tilt_target(self) -> float:
        """δ of the tilt W in training.

        With an adaptive λ the tilt is that of the hard constraint. W with δ = target is 1 wherever a prompt satisfies
        the target, and the pull on the others ends as they come near it, so that the mean stays below it for every λ.
        The hard W pulls as long as anything violates, and then a finite λ has its optimum at any target; it is also
        nearly the cheapest way there (tests/exact/test_multiplier.py).
        """
        return 1.0 if self.adaptive else self.target


def check_names(constraints: list[Constraint]) -> None:
    """Raises RecipeError when two constraints share a name, or there is none."""
    if not constraints:
        raise RecipeError("constraints must hold at least one constraint; without one, plain fine-tuning does the same")
    names = [constraint.name for constraint in constraints]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two constraints are called {name!r}; give each its own `name`")
