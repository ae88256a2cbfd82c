"""`adhere label`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adhere.cli.group import CHECK_FAILED
from adhere.cli.interruption import continuable
from adhere.cli.progress import shown
from adhere.cli.screen import complain, say

if TYPE_CHECKING:
    from adhere.recipe.label import Labelled


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
    with continuable(context, f"What was judged stands beside {out}."), shown() as progress:
        progress("loading the oracle", 0, 0, "")
        from adhere.recipe.label import label_file

        counts = label_file(samples, judging, out, progress=progress)
    say(_told(counts), f"Labels:  {out}")
    if counts.trouble:
        complain(f"Why verdicts were missing: {counts.trouble}")
    if not counts.judged:
        raise typer.Exit(CHECK_FAILED)


def _told(counts: Labelled) -> str:
    from adhere.evaluation.intervals import wilson
    from adhere.report.tables import show

    without = counts.rows - counts.judged
    missing = f"; {without:,} got no verdict" if without else ""
    if not counts.judged:
        return f"No output got a verdict, of {counts.rows:,}."
    rate, low, high = wilson(counts.violations, counts.judged)
    interval = f"{show(low, 'percent', bare=True)} – {show(high, 'percent', bare=True)}"
    share = f"{show(rate, 'percent')} (95 % interval {interval})"
    return f"{counts.violations:,} of {counts.judged:,} outputs violate: {share}{missing}."
