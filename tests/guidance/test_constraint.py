from __future__ import annotations

import math
from typing import Any

import pytest

from adhere.errors import RecipeError
from adhere.guidance.constraint import Constraint, check_names
from adhere.oracles.rules import WordListOracle

ORACLE = WordListOracle(["bad"], name="no bad words")


def test_a_constraint_is_called_by_its_oracle_unless_it_has_a_name() -> None:
    assert Constraint(ORACLE).name == "no bad words"
    assert Constraint(ORACLE, name="polite").name == "polite"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, r"target must be in \(0, 1\], got 0.0"),
        ({"target": 1.5}, r"target must be in \(0, 1\], got 1.5"),
        ({"target": math.nan}, r"target must be in \(0, 1\], got nan"),
        ({"weight": -1.0}, "weight must be a number ≥ 0, got -1.0"),
        ({"weight": math.inf}, "weight must be a number ≥ 0, got inf"),
        ({"weight": math.nan}, "weight must be a number ≥ 0, got nan"),
        ({"multiplier": "adaptive"}, "multiplier must be fixed or dual, got 'adaptive'"),
        ({"multiplier": "dual"}, "target must be below 1 with multiplier dual, got 1"),
        (
            {"multiplier": "dual", "target": 0.9, "weight": 0.0},
            r"weight must be in \[0.01, 100\] \(dual.lowest, dual.highest\)",
        ),
        (
            {"multiplier": "dual", "target": 0.9, "weight": 9.0, "dual": {"highest": 8.0}},
            r"weight must be in \[0.01, 8\]",
        ),
        ({"dual": {"gian": 1.0}}, r"Constraint\.dual: .*\n.*gian"),
        ({"oracle": len}, "must be an Oracle, got builtin_function_or_method; wrap a function in CallableOracle"),
    ],
)
def test_what_no_constraint_can_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Constraint(**{"oracle": ORACLE, **settings})


def test_two_constraints_of_one_name_are_refused() -> None:
    with pytest.raises(RecipeError, match="two constraints are called 'no bad words'"):
        check_names([Constraint(ORACLE), Constraint(WordListOracle(["worse"], name="no bad words"))])
    check_names([Constraint(ORACLE), Constraint(ORACLE, name="again")])


def test_a_run_without_constraints_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least one constraint; without one, plain fine-tuning does the same"):
        check_names([])


def test_with_a_multiplier_that_is_found_the_tilt_is_the_hard_one() -> None:
    """The target is then what the outputs are to satisfy in the mean, not what the tilt asks of every prompt."""
    found = Constraint(ORACLE, 0.9, multiplier="dual", dual={"patience": 2})  # type: ignore[arg-type]
    assert (found.adaptive, found.target, found.tilt_target, found.dual.patience) == (True, 0.9, 1.0, 2)
    fixed = Constraint(ORACLE, 0.9)
    assert (fixed.adaptive, fixed.tilt_target) == (False, 0.9)
