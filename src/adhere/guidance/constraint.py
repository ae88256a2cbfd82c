"""A rule the outputs must satisfy, how far, and how hard the training holds to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adhere.errors import RecipeError
from adhere.oracles.base import Oracle


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint of a training run.

    Args:
        oracle: judges whole outputs.
        target: δ in (0, 1]: the satisfaction asked for at every prompt; 1 is the hard constraint.
        weight: λ, how hard the policy is pulled to the closest distribution that satisfies it.
        name: how logs and files call it; the oracle's name when left out.
    """

    oracle: Oracle
    target: float = 1.0
    weight: float = 2.0
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.oracle, Oracle):
            raise RecipeError(
                f"Constraint.oracle must be an Oracle, got {type(self.oracle).__name__}; wrap a function in CallableOracle"
            )
        if not 0.0 < self.target <= 1.0:
            raise RecipeError(f"Constraint.target must be in (0, 1], got {self.target}")
        if not (self.weight >= 0.0 and math.isfinite(self.weight)):
            raise RecipeError(f"Constraint.weight must be a number ≥ 0, got {self.weight}")
        if not self.name:
            object.__setattr__(self, "name", self.oracle.name)


def check_names(constraints: list[Constraint]) -> None:
    """Raises RecipeError when two constraints share a name, or there is none."""
    if not constraints:
        raise RecipeError("constraints must hold at least one constraint; without one, plain fine-tuning does the same")
    names = [constraint.name for constraint in constraints]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two constraints are called {name!r}; give each its own `name`")
