"""What a plan says of guidance that is made while the model is trained."""

from __future__ import annotations

from adhere.recipe.arguments import training_device
from adhere.recipe.folder import RECIPE, saved_recipe
from adhere.recipe.schema import Recipe
from adhere.recipe.workload import refreshes
from adhere.training.method_config import iterations_in


def how_refreshed(recipe: Recipe, steps: int) -> str:
    """When and where guidance is made, in words; empty where that is as always."""
    guidance, count = recipe.guidance, refreshes(recipe, steps)
    where = guidance.where(guidance.schedule)
    if recipe.method != "constrained" or (guidance.schedule == "sequential" and where == "in-process"):
        return ""
    by = {"in-process": "in this process", "worker": "by a worker process", "ray": "by a Ray cluster"}[where]
    on = f" on {guidance.worker_device}" if where == "worker" and guidance.worker_device else ""
    meanwhile = (
        ", all but the first while the model is trained" if guidance.schedule == "parallel" and count > 1 else ""
    )
    shared = "; both share the device, and take as long as in turn" if meanwhile and not elsewhere(recipe) else ""
    return f"made {count} time{'s' if count > 1 else ''}{meanwhile}, {by}{on}{shared if where == 'worker' else ''}"


def nothing_meanwhile(recipe: Recipe, steps: int) -> list[str]:
    """A warning where guidance was to be made during training, and a run of so many steps makes it but once, before."""
    guidance = recipe.guidance
    if recipe.method != "constrained" or guidance.schedule != "parallel" or refreshes(recipe, steps) > 1:
        return []
    iterations = iterations_in(steps, guidance.iterations)
    return [
        f"guidance.schedule is parallel, but with {iterations} iteration{'s' if iterations > 1 else ''} guidance is made once, "
        "before the first step, and nothing meanwhile: set guidance.iterations to 3 or more"
    ]


def overlapped_seconds(recipe: Recipe, steps: int, training: float, making: float) -> float:
    """Of the seconds in which guidance is made, those in which another device makes it while the model is trained.

    On one device both take turns: the sum stays what it is. What an oracle takes to answer is not counted at all.

    Args:
        steps: of the run.
        training: seconds of all training steps.
        making: seconds in which all guidance is made.
    """
    guidance = recipe.guidance
    if guidance.schedule == "sequential" or not elsewhere(recipe):
        return 0.0
    count, iterations = refreshes(recipe, steps), iterations_in(steps, guidance.iterations)
    return (count - 1) * min(making / count, training / iterations)


def elsewhere(recipe: Recipe) -> bool:
    """True when guidance is made on another device than the one that trains."""
    where, device = recipe.guidance.where(recipe.guidance.schedule), recipe.guidance.worker_device
    own = (device or training_device().type).removesuffix(":0") != training_device().type
    return where == "ray" or (where == "worker" and own)


def goes_on_otherwise(recipe: Recipe) -> list[str]:
    """What a run that is resumed has otherwise of when and where guidance is made, as sentences for a person."""
    if not (recipe.output_dir / RECIPE).exists():
        return []
    begun, now = saved_recipe(recipe.output_dir).guidance, recipe.guidance
    pairs: list[tuple[str, str, str]] = [
        ("schedule", begun.schedule, now.schedule),
        ("executor", begun.where(begun.schedule), now.where(now.schedule)),
    ]
    return [
        f"the run was begun with guidance.{name} {before}, and goes on with {after}"
        for name, before, after in pairs
        if before != after
    ]
