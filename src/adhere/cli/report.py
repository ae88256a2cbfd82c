"""`adhere report`"""

from __future__ import annotations

from typing import Annotated

import typer

from adhere.cli.options import RunFolder
from adhere.cli.results import show_results
from adhere.cli.screen import say
from adhere.cli.suite_results import show_suites


def report(
    run: RunFolder,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a run's report: one HTML file that needs no network."""
    from adhere.report.html import write_report

    page = write_report(run)
    show_results(run)
    show_suites(run)
    say("", f"Report:   {page}")
    if open_:
        typer.launch(page.resolve().as_uri())
