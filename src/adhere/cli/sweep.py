"""`adhere sweep`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adhere.cli.interruption import repeatable
from adhere.cli.options import RecipeFile, Set
from adhere.cli.progress import shown
from adhere.cli.screen import command, say
from adhere.errors import RecipeError


def sweep(
    context: typer.Context,
    recipe: RecipeFile,
    over: Annotated[
        str,
        typer.Option(metavar="KEY=V,V,...", help="Such as constraints.0.weight=0.5,1,2,4.", show_default=False),
    ],
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Seeds of every point.")] = "0",
    baselines: Annotated[
        str,
        typer.Option(
            metavar="METHOD,...", help="Other methods as points: before,sft,filtered-sft.", show_default="none"
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the sweep.", show_default="the recipe's, with -sweep"),
    ] = None,
    settings: Set = None,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep every model on the disk.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Train and measure over values of a setting: the trade-off curve."""
    from adhere.recipe.run import plan_sweep, run_sweep

    planned = plan_sweep(recipe, over, _whole_numbers(seeds), _words(baselines), output, settings or [])
    say(f"{len(planned.cells)} cells in {planned.folder}; those that are finished are not run again.")
    with repeatable(context, planned.folder), shown() as progress:
        page = run_sweep(planned, keep_models=keep_models, progress=progress)
    from adhere.cli.side_by_side import show_sweep

    show_sweep(planned)
    say("", f"Numbers:  {page.with_suffix('.json')}", f"Page:     {page}")
    say(f"Compare:  {command('compare', planned.folder)}/*-{planned.seeds[0]}.*")
    if open_:
        typer.launch(page.resolve().as_uri())


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.split(",") if word.strip()]


def _whole_numbers(given: str) -> list[int]:
    words = _words(given)
    if not words or not all(word.isdigit() for word in words):
        raise RecipeError(f"--seeds {given!r}: give whole numbers with commas between them, as 0,1")
    return [int(word) for word in dict.fromkeys(words)]
