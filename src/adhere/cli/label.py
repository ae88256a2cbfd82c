"""`adhere label`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adhere.cli.interruption import stoppable
from adhere.cli.progress import shown
from adhere.cli.screen import say


def label(
    context: typer.Context,
    samples: Annotated[
        Path,
        typer.Argument(
            metavar="SAMPLES",
            help="Rows with output, completion or text.",
            show_default=False,
        ),
    ],
    oracle: Annotated[
        str,
        typer.Option(metavar="KIND|YAML", help="Such as embedded, or {kind: json}.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The same rows with their score, JSONL.", show_default=False)
    ],
) -> None:
    """Judge texts with an oracle: 1 keeps its rule, 0 violates it."""
    from adhere.cli.oracle_option import read_oracle

    judging = read_oracle(oracle, "--oracle")
    with stoppable(context, out), shown() as progress:
        progress("loading the oracle", 0, 0, "")
        from adhere.recipe.run import label_file

        scores = label_file(samples, judging, out, progress=progress)
    say(_told(scores), f"Labels:  {out}")


def _told(scores: list[float | None]) -> str:
    from adhere.evaluation.intervals import wilson
    from adhere.oracles.base import violates
    from adhere.report.tables import show

    judged = [score for score in scores if score is not None]
    missing = f"; {len(scores) - len(judged):,} got no verdict" if len(judged) < len(scores) else ""
    if not judged:
        return f"No output got a verdict, of {len(scores):,}."
    violations = sum(map(violates, judged))
    rate, low, high = wilson(violations, len(judged))
    interval = f"{show(low, 'percent', bare=True)} – {show(high, 'percent', bare=True)}"
    share = f"{show(rate, 'percent')} (95 % interval {interval})"
    return f"{violations:,} of {len(judged):,} outputs violate: {share}{missing}."
