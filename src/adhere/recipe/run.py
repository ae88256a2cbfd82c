"""What can be done with a recipe and with a run: the names that the command line and scripts call."""

from adhere.recipe.check import check_recipe
from adhere.recipe.compare import compare_runs, comparison_rows, write_comparison
from adhere.recipe.doctor import Finding, doctor
from adhere.recipe.evaluate import evaluate_run
from adhere.recipe.plan import Plan
from adhere.recipe.sample import label_file, sample_run
from adhere.recipe.suites import evaluate_suites
from adhere.recipe.sweep import plan_sweep, run_sweep
from adhere.recipe.train import train_recipe

__all__ = [
    "Finding",
    "Plan",
    "check_recipe",
    "compare_runs",
    "comparison_rows",
    "doctor",
    "evaluate_run",
    "evaluate_suites",
    "label_file",
    "plan_sweep",
    "run_sweep",
    "sample_run",
    "train_recipe",
    "write_comparison",
]
