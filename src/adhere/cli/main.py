"""The `adhere` command. Each command is a thin file; nothing heavy is imported before one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from adhere import __version__, ranks
from adhere.cli.cache import cache
from adhere.cli.check import check
from adhere.cli.compare import compare
from adhere.cli.demo import demo
from adhere.cli.doctor import doctor
from adhere.cli.evaluate import evaluate
from adhere.cli.group import USER_ERROR, AdhereGroup
from adhere.cli.joint import joint
from adhere.cli.label import label
from adhere.cli.quiet import quiet_libraries
from adhere.cli.report import report
from adhere.cli.sample import sample
from adhere.cli.schema import schema
from adhere.cli.screen import write_anything
from adhere.cli.sweep import sweep
from adhere.cli.train import train
from adhere.errors import RecipeError

IN_SEVERAL_PROCESSES = ("train", "check")

EXAMPLES = """\
[bold]Examples[/bold]

adhere demo                                  the whole of it, on a small model
adhere check recipes/detox.yaml              before anything is spent
adhere train recipes/detox.yaml
adhere train recipes/detox.yaml --resume     after a stop, however it came
adhere sample runs/detox --prompt "You are"
adhere evaluate runs/detox
adhere report runs/detox --open
adhere compare runs/*                        which is better, and how surely
"""

app = typer.Typer(
    name="adhere",
    cls=AdhereGroup,
    rich_markup_mode="rich",
    epilog=EXAMPLES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"adhere {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Fine-tune a language model on your corpus, and have its outputs adhere to a rule you can check."""
    write_anything()
    quiet_libraries()
    if ranks.launched() > 1 and context.invoked_subcommand not in IN_SEVERAL_PROCESSES:
        if not ranks.is_first():
            raise typer.Exit(USER_ERROR)
        raise RecipeError(
            f"`adhere {context.invoked_subcommand}` runs in one process, and a launcher has started {ranks.launched()}: run it "
            f"without the launcher (in several processes run {' and '.join(IN_SEVERAL_PROCESSES)})"
        )


for command in (demo, check, train, sample, label, evaluate, compare, sweep, report, doctor, joint, schema):
    app.command()(command)
app.add_typer(cache)
