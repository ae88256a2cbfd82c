"""`adhere doctor`"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from adhere.cli.group import CHECK_FAILED
from adhere.cli.options import RunFolder
from adhere.cli.screen import command, say, visible

_STYLES = {"ok": "green", "warning": "yellow", "damaged": "bold red"}


def doctor(
    run: RunFolder,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Move what is damaged aside (to damaged/ in the run's folder), for --resume to go on."
        ),
    ] = False,
) -> None:
    """Find what is damaged in a run's folder, and what to do."""
    from adhere.recipe.run import doctor as examine
    from adhere.recipe.run import repair as mend

    findings = examine(run)
    for finding in findings:
        advice = f"\n{'':9}{finding.advice}" if finding.advice else ""
        mark = (f"{finding.severity:9}", _STYLES[finding.severity])
        say(Text.assemble(mark, visible(finding.what), visible(advice)))
    damaged = sum(finding.severity == "damaged" for finding in findings)
    say("", f"{damaged} damaged." if damaged else "Nothing is damaged.")
    if damaged and repair:
        say("", *(visible(sentence) for sentence in mend(run)))
        left = [finding for finding in examine(run) if finding.severity == "damaged"]
        if not left:
            say("", f"Repaired. Go on with:  {command('train', run / 'recipe.yaml', '--resume')}")
            return
        say("", "What --repair cannot mend:", *(visible(f"{finding.what}\n  {finding.advice}") for finding in left))
    if damaged:
        raise typer.Exit(CHECK_FAILED)
