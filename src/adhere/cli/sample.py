"""`adhere sample`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from adhere.cli.interruption import stoppable
from adhere.cli.options import Seed
from adhere.cli.progress import shown
from adhere.cli.screen import command, indented, say, visible
from adhere.errors import RecipeError

if TYPE_CHECKING:
    from adhere.records import Sample
    from adhere.sampling.sampler import SamplingConfig


def sample(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL", help="A run's folder, or a model's folder or hub name.", show_default=False
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts: .txt, JSONL, Parquet or CSV.", show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A prompt (repeatable).", show_default=False)
    ] = None,
    guided: Annotated[bool, typer.Option("--guided", help="Steer tokens by the run's auxiliary model.")] = False,
    base: Annotated[bool, typer.Option("--base", help="Sample what the run began with.")] = False,
    n: Annotated[int, typer.Option("-n", "--n", metavar="N", min=1, help="Outputs a prompt.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write them to this JSONL file instead.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Longest output, in tokens.", show_default="the run's")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="X", help="1: the model as it is.", show_default="the run's")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Nucleus sampling; 1: off.", show_default="the run's"),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", help="The likeliest K tokens; 0: off.", show_default="the run's"),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Let a trained model, or any other, write on from prompts."""
    if (prompts is None) == (not prompt):
        raise RecipeError("give prompts either as --prompts FILE or as --prompt TEXT")
    changes = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    sampling = _sampling(source, {name: value for name, value in changes.items() if value is not None})
    with stoppable(context, out), shown() as progress:
        progress("loading the model", 0, 0, "")
        from adhere.recipe.run import sample_run

        samples = sample_run(
            source, prompts or prompt or [], n, out, guided, seed, sampling, base=base, progress=progress
        )
    if out is not None:
        judging = command("label", out, "--oracle", "embedded", "--out", out.with_suffix(".labels.jsonl"))
        say(f"{len(samples):,} outputs: {out}", f"Judge them with, for one:  {judging}")
    else:
        for one in samples:
            _show(one)


def _sampling(source: str, changes: dict[str, int | float]) -> SamplingConfig | None:
    """How the run samples, with what the options change; None to leave it all to the run."""
    if not changes:
        return None
    from pydantic import ValidationError

    from adhere.recipe.folder import RECIPE, saved_recipe
    from adhere.sampling.sampler import SamplingConfig

    is_run = (Path(source) / RECIPE).exists()
    kept = saved_recipe(Path(source)).sampling.model_dump(include=set(SamplingConfig.model_fields)) if is_run else {}
    try:
        return SamplingConfig(**{**kept, **changes})
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise RecipeError(
            "\n".join(
                f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg'].lower()}, got {fault['input']}"
                for fault in faults
            )
        ) from error


def _show(one: Sample) -> None:
    say(Text(visible(one.prompt), style="bold"), indented(one.output + ("" if one.finished else " …")), "")
