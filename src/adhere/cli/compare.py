"""`adhere compare`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from adhere.cli.screen import command, say


def compare(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Folders of evaluated runs; RUN:MODEL chooses one model.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes.")] = Path("comparison.html"),
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="What the others are compared with.", show_default="sft, else before, else the first"
        ),
    ] = None,
    utility: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE",
            help="What violations are drawn against.",
            show_default="clean_perplexity, else corpus_perplexity",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of tables.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Runs side by side: what each gave up, and how surely they differ."""
    from adhere.recipe.run import compare_runs, comparison_rows, write_comparison

    comparison = compare_runs(runs, reference)
    typed = command(*(context.obj or ()))
    page = write_comparison(out, comparison, typed, utility)
    if json_:
        print(json.dumps(comparison_rows(comparison, typed), ensure_ascii=False, indent=2))
    else:
        from adhere.cli.side_by_side import show_comparison

        show_comparison(comparison)
        say("", f"Page:     {page}")
    if open_:
        typer.launch(page.resolve().as_uri())
