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
