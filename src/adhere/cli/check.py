"""`adhere check`"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adhere import ranks
from adhere.cli.options import RecipeFile, Set
from adhere.cli.progress import shown
from adhere.cli.screen import command, fields, say

if TYPE_CHECKING:
    from adhere.recipe.plan import Plan
    from adhere.recipe.schema import Recipe


def check(recipe: RecipeFile, settings: Set = None) -> None:
    """Validate a recipe, and show what it will do and cost."""
    from adhere.recipe.load import load_recipe

    ranks.join()
    show_plan(planned(ranks.on_first(lambda: load_recipe(recipe, settings or []))))
    changes = [word for setting in settings or [] for word in ("--set", setting)]
    say("", f"The recipe is fine. Run it with:  {command('train', recipe, *changes)}")


def planned(recipe: Recipe, *, resume: bool = False) -> Plan:
    """Check a recipe, which may take a while: the corpus is read and every oracle tried."""
    with shown() as progress:
        progress("checking the recipe", 0, 0, "")
        from adhere.recipe.run import check_recipe

        return check_recipe(recipe, resume=resume)


def show_plan(plan: Plan) -> None:
    """Print a plan as a table."""
    say(fields("Plan", plan.lines()))
