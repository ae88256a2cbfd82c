"""What asking a service will come to, told before it is asked."""

from __future__ import annotations

from adhere.guidance.constraint import Constraint
from adhere.oracles.spending import spending_of
from adhere.recipe.plan import Plan
from adhere.recipe.schema import Recipe


def service_costs(constraint: Constraint, recipe: Recipe, plan: Plan) -> str | None:
    """A sentence for the plan; None for an oracle that costs nothing to ask.

    Args:
        constraint: whose oracle has been tried on some rows: what that took is what the rest is reckoned by.
        plan: how many rows and outputs there will be.
    """
    tried = spending_of(constraint.oracle)
    if not tried.calls_made + tried.calls_saved:
        return None
    of_corpus = recipe.method == "constrained" and recipe.guidance.violating_rows == "learn"
    rows = min(plan.rows, recipe.nado_fit.corpus_rows) if of_corpus else plan.rows
    told = (
        f"constraint {constraint.name!r} has its oracle asked for about {rows + plan.samples:,} verdicts in training, and "
        f"{plan.evaluated:,} for each model that is evaluated; the cache saves those it has"
    )
    if tried.money and tried.answered:
        each = tried.money / tried.answered
        told += f". At the price stated, about {each * (rows + plan.samples):,.2f} and {each * plan.evaluated:,.2f}"
    return told
