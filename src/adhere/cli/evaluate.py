"""`adhere evaluate`"""

from __future__ import annotations

from typing import Annotated

import typer

from adhere.cli.interruption import stoppable
from adhere.cli.options import RunFolder
from adhere.cli.progress import shown
from adhere.cli.results import show_results
from adhere.cli.screen import command, say


def evaluate(
    context: typer.Context,
    run: RunFolder,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND|YAML",
            help="A second judge, as jigsaw (repeatable).",
            show_default="the recipe's",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Another model; before: what it began with.",
            show_default="the run's",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What tables call the model.", show_default=False)
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Held-out prompts.", show_default="the recipe's"),
    ] = None,
    samples_per_prompt: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Outputs a prompt.", show_default="the recipe's"),
    ] = None,
) -> None:
    """Measure a run's model on prompts that it never saw."""
    from adhere.cli.oracle_option import read_oracle

    judges = [read_oracle(text, "--judge") for text in judge] if judge else None
    with stoppable(context, run / "evaluation"), shown() as progress:
        progress("loading the model", 0, 0, "")
        from adhere.recipe.run import evaluate_run

        result = evaluate_run(
            run,
            name=name,
            model_path=model,
            judges=judges,
            samples_per_prompt=samples_per_prompt,
            prompts=prompts,
            progress=progress,
        )
    show_results(run, result)
    say("", f"Numbers:  {run / 'evaluation' / f'{result.model}.json'}", f"Report:   {command('report', run)}")
