"""What can be done with a recipe and with a run: the names that the command line and scripts call."""

from adhere.recipe.check import check_recipe
from adhere.recipe.doctor import Finding, doctor
from adhere.recipe.evaluate import evaluate_run
from adhere.recipe.plan import Plan
from adhere.recipe.sample import label_file, sample_run
from adhere.recipe.train import train_recipe

__all__ = [
    "Finding",
    "Plan",
    "check_recipe",
    "doctor",
    "evaluate_run",
    "label_file",
    "sample_run",
    "train_recipe",
]
