"""What can be done with a recipe and with a run: the names that the command line and scripts call."""

from adhere.recipe.check import check_recipe
from adhere.recipe.compare import compare_runs, comparison_rows, write_comparison
from adhere.recipe.doctor import doctor
from adhere.recipe.evaluate import evaluate_run
from adhere.recipe.finding import Finding
from adhere.recipe.label import Labelled, label_file
from adhere.recipe.plan import Plan
from adhere.recipe.repair import repair
from adhere.recipe.sample import sample_run
from adhere.recipe.suites import evaluate_suites
from adhere.recipe.sweep import plan_sweep, run_sweep
from adhere.recipe.train import train_recipe

__all__ = [
    "Finding",
    "Labelled",
    "Plan",
    "check_recipe",
    "compare_runs",
    "comparison_rows",
    "doctor",
    "evaluate_run",
    "evaluate_suites",
    "label_file",
    "plan_sweep",
    "repair",
    "run_sweep",
    "sample_run",
    "train_recipe",
    "write_comparison",
]
