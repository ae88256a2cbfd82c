"""`adhere cache info` and `adhere cache clear`"""

from __future__ import annotations

from typing import Annotated

import typer

from adhere.cli.screen import fields, say

cache = typer.Typer(name="cache", help="Verdicts kept on this machine: look at them, clear them.", no_args_is_help=True)


@cache.command()
def info() -> None:
    """Say where the cache is, and what it holds."""
    from adhere.oracles.cache import VerdictCache

    found = VerdictCache().info()
    size = f"{found.bytes / 2**20:,.1f} MiB"
    say(fields("Cache", [("folder", str(found.folder)), ("verdicts", f"{found.verdicts:,}"), ("size", size)]))


@cache.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget all verdicts; what is judged again is asked, and paid, again."""
    from adhere.oracles.cache import VerdictCache

    kept = VerdictCache()
    count = kept.info().verdicts
    if count and not yes:
        typer.confirm(f"Forget {count:,} verdicts in {kept.folder}?", abort=True)
    say(f"Forgotten: {kept.clear():,} verdicts.")
