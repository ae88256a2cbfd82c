"""`adhere doctor`"""

from __future__ import annotations

import typer
from rich.text import Text

from adhere.cli.group import CHECK_FAILED
from adhere.cli.options import RunFolder
from adhere.cli.screen import say, visible

_STYLES = {"ok": "green", "warning": "yellow", "damaged": "bold red"}


def doctor(run: RunFolder) -> None:
    """Find what is damaged in a run's folder, and what to do."""
    from adhere.recipe.run import doctor as examine

    findings = examine(run)
    for finding in findings:
        advice = f"\n{'':9}{finding.advice}" if finding.advice else ""
        mark = (f"{finding.severity:9}", _STYLES[finding.severity])
        say(Text.assemble(mark, visible(finding.what), visible(advice)))
    damaged = sum(finding.severity == "damaged" for finding in findings)
    say("", f"{damaged} damaged." if damaged else "Nothing is damaged.")
    if damaged:
        raise typer.Exit(CHECK_FAILED)
