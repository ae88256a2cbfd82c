"""`adhere demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adhere.cli.interruption import resumable
from adhere.cli.options import Resume, Seed
from adhere.cli.progress import shown
from adhere.cli.results import show_results
from adhere.cli.screen import say


def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the run.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Far fewer steps: only to see that it works.")] = False,
    resume: Resume = False,
    seed: Seed = 0,
) -> None:
    """See it work: a real model trained with and without a rule."""
    with resumable(context, output), shown() as progress:
        progress("loading", 0, 0, "")
        from adhere.recipe.demo import demo as run_demo

        folder = run_demo(output, quick=quick, resume=resume, seed=seed, progress=progress)
    show_results(folder)
    if quick:
        say("", "--quick shows that it works here; with so few steps and prompts the numbers say nothing else.")
    say("", f"Report:   {folder / 'report.html'}", f"Numbers:  {folder / 'summary.json'}")
