"""`adhere joint`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adhere.cli.interruption import stoppable
from adhere.cli.options import Seed
from adhere.cli.screen import say


def joint(
    context: typer.Context,
    labelled: Annotated[
        str,
        typer.Argument(metavar="LABELLED", help="Rows with text and toxic: a file, or a hub id.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The corpus to write, JSONL.", show_default=False)],
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A corpus to mix them into.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Labelled rows at most.", show_default="all")
    ] = None,
    prompt_words: Annotated[int, typer.Option(metavar="N", min=1, help="Words of a text that are its prompt.")] = 4,
    seed: Seed = 0,
) -> None:
    """Mix rows that teach a model to detect toxicity into a corpus."""
    with stoppable(context, out):
        from adhere.recipe.joint_task import write_detection_rows

        counted = write_detection_rows(labelled, out, corpus, limit, prompt_words, seed)
    told = ", ".join(f"{count:,} of {domain}" for domain, count in sorted(counted.items()))
    say(
        f"{counted.total():,} rows ({told}): {out}",
        "Train on it with corpus.path, then measure with --suite detection.",
    )
