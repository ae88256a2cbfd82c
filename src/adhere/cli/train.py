"""`adhere train`"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adhere import ranks
from adhere.cli.check import planned, show_plan
from adhere.cli.interruption import resumable
from adhere.cli.options import RecipeFile, Resume, Set
from adhere.cli.progress import shown
from adhere.cli.screen import command, say


class Method(StrEnum):
    """How to train: under the recipe's constraints, or by a method to compare with, on the same rows and steps."""

    constrained = "constrained"
    sft = "sft"
    filtered_sft = "filtered-sft"
    rloo = "rloo"
    grpo = "grpo"
    dpo = "dpo"
    guided_decoding = "guided-decoding"


class Schedule(StrEnum):
    """When guidance is refreshed."""

    sequential = "sequential"
    parallel = "parallel"


class Executor(StrEnum):
    """Where guidance is refreshed."""

    in_process = "in-process"
    worker = "worker"
    ray = "ray"


def train(
    context: typer.Context,
    recipe: RecipeFile,
    settings: Set = None,
    method: Annotated[
        Method | None,
        typer.Option(metavar="METHOD", help=f"One of {', '.join(Method)}.", show_default="the recipe's"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the run.", show_default="the recipe's"),
    ] = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            metavar="SCHEDULE",
            help="When guidance is refreshed: sequential (training waits), parallel (training goes on meanwhile).",
            show_default="the recipe's",
        ),
    ] = None,
    executor: Annotated[
        Executor | None,
        typer.Option(
            metavar="EXECUTOR",
            help="Where guidance is refreshed: in-process, worker (a process beside the training), ray (a cluster).",
            show_default="the recipe's, or the schedule's",
        ),
    ] = None,
    resume: Resume = False,
) -> None:
    """Train a recipe's model, or go on after a stop (--resume)."""
    from adhere.recipe.load import load_recipe

    overrides = [
        *(settings or []),
        *([f"method={method.value}"] if method is not None else []),
        *([f"guidance.schedule={schedule.value}"] if schedule is not None else []),
        *([f"guidance.executor={executor.value}"] if executor is not None else []),
        *([f"output_dir={json.dumps(str(output))}"] if output is not None else []),
    ]
    ranks.join()
    loaded = ranks.on_first(lambda: load_recipe(recipe, overrides))
    with resumable(context, loaded.output_dir):
        show_plan(planned(loaded, resume=resume))
        from adhere.recipe.run import train_recipe

        with shown() as progress:
            folder = train_recipe(loaded, resume=resume, progress=progress)
    from adhere.recipe.targets import target_sentences

    if loaded.method == "constrained":
        say(*(f"{sentence[0].upper()}{sentence[1:]}" for sentence in target_sentences(folder)))
    say("", f"Model:    {folder / 'model'}")
    say(f"Measure:  {command('evaluate', folder)}", f"Report:   {command('report', folder)}")
