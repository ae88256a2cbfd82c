"""`adhere evaluate`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adhere.cli.interruption import repeatable, stoppable
from adhere.cli.options import RunFolder
from adhere.cli.progress import shown
from adhere.cli.results import show_results
from adhere.cli.screen import command, say
from adhere.cli.suite_results import show_suites
from adhere.errors import RecipeError

if TYPE_CHECKING:
    from adhere.oracles.config import OracleConfig

SUITES = "Suites"


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
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Measure these instead: toxicity,utility,quality,detection,bias.",
            show_default=False,
            rich_help_panel=SUITES,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER|TASK=FILE",
            help="Their rows: a folder, or a task's file or hub id (repeatable).",
            show_default="the hub's",
            rich_help_panel=SUITES,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rows a task, at most.", show_default="all", rich_help_panel=SUITES),
    ] = None,
    referee: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL|NAME@URL",
            help="Another model that reads outputs; NAME@URL: a chat endpoint (repeatable).",
            show_default=False,
            rich_help_panel=SUITES,
        ),
    ] = None,
    against: Annotated[
        str,
        typer.Option(metavar="MODEL|RUN", help="Whose outputs a win rate compares with.", rich_help_panel=SUITES),
    ] = "before",
) -> None:
    """Measure a run's model on prompts that it never saw."""
    from adhere.cli.oracle_option import read_oracle

    judges = [read_oracle(text, "--judge") for text in judge] if judge else None
    if suite is not None:
        if prompts is not None:
            raise RecipeError("--prompts is for an evaluation without suites; with --suite, --limit says how many")
        asked = SuiteOptions(suite, data or [], limit, referee or [], against)
        _measure_suites(context, run, asked, name, model, judges, samples_per_prompt)
        return
    if data or limit or referee:
        raise RecipeError("--data, --limit and --referee belong to suites: name them with --suite")
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


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """The options of the panel `Suites`."""

    suites: str
    data: list[str]
    limit: int | None
    referees: list[str]
    against: str


def _measure_suites(
    context: typer.Context,
    run: Path,
    asked: SuiteOptions,
    name: str | None,
    model: str | None,
    judges: list[OracleConfig] | None,
    samples_per_prompt: int | None,
) -> None:
    with repeatable(context, run), shown() as progress:
        from adhere.recipe.run import evaluate_suites

        results = evaluate_suites(
            run,
            asked.suites,
            data=asked.data,
            limit=asked.limit,
            referees=asked.referees,
            against=asked.against,
            name=name,
            model_path=model,
            judges=judges,
            samples_per_prompt=samples_per_prompt,
            progress=progress,
        )
    show_suites(run, tuple(result.suite for result in results))
    places = [run / "evaluation" / result.suite / f"{result.model}.json" for result in results]
    say("", *(f"Numbers:  {place}" for place in places), f"Report:   {command('report', run)}")
