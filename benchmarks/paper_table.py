"""The paper's table on one model: every method, same corpus, prompts and seeds; and its joint task as a second table.

    python benchmarks/paper_table.py --data DATA --seeds 0 1                    # all cells; finished ones are not run again
    python benchmarks/paper_table.py --data DATA --seeds 0 --methods sft rloo   # some of them, here or on another machine
    python benchmarks/paper_table.py --table docs/results.md --figure docs/results.png   # from the results files; runs nothing

A cell is a method and a seed: trained, measured on held-out prompts by the oracle and a second judge, then by suites, each
part on disk when the next begins. Its rows go into `benchmarks/results/paper_table.<machine>.json` as soon as it is finished;
a cell that any results file there holds is not run again, so the table grows over several runs and machines.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_corpus import CORPUS, DETECTION, HELDOUT, JOINT, demo_text, write_corpora
from paper_document import write_document, write_figure

if TYPE_CHECKING:
    from adhere.evaluation.suite_files import SuiteResult
    from adhere.recipe.cells import Cell
    from adhere.recipe.progress import Progress
    from adhere.records import Measurement

BENCHMARK = "paper_table"
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True)
class Method:
    """A row of the table, and the settings laid over the demo's recipe for it."""

    name: str
    settings: tuple[str, ...]
    trains: bool = True


# Every method has the demo's corpus and number of steps; `paper_tuning.py` has what else was tried.
REFRESHES = ("guidance.iterations=3", "guidance.samples=128", "nado_fit.epochs=4")
"""Of every method: they were the defaults while the first cells were made."""

CONSTRAINED = ("method=constrained",)
ADAPTIVE = (
    "method=constrained",
    "constraints.0.multiplier=dual",
    "constraints.0.target=0.95",
    "domains.general={constraints: {}, reference_kl: 0.5}",
)
METHODS = (
    Method("base", ("method=sft",), trains=False),
    Method("sft", ("method=sft",)),
    Method("filtered-sft", ("method=filtered-sft",)),
    Method("rloo", ("method=rloo", "baselines.reinforcement.learning_rate=1e-4")),
    Method("grpo", ("method=grpo", "baselines.reinforcement.learning_rate=1e-4")),
    Method("dpo", ("method=dpo", "baselines.preference.learning_rate=3e-5")),
    Method("guided-decoding", ("method=guided-decoding",)),
    Method("constrained", CONSTRAINED),
    Method("constrained-adaptive", ADAPTIVE),
)
# The joint task: its corpus holds questions too, which nothing constrains.
UNCONSTRAINED = "domains.detection={constraints: {}}"
JOINT_METHODS = (
    Method("base", ("method=sft",), trains=False),
    Method("sft", ("method=sft",)),
    Method("constrained", (*CONSTRAINED, UNCONSTRAINED)),
    Method("constrained-adaptive", (*ADAPTIVE, UNCONSTRAINED)),
)
JOINT_SETTINGS = ("corpus.max_length=192", "corpus.max_prompt_length=176", "training.max_steps=100")
SUITES = {"main": ("toxicity", "utility", "quality"), "joint": ("detection",)}
QUICK = ("evaluation.prompts=16", "evaluation.clean_count=8")  # beside the demo's own quick settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells asked for and keep the results file; or write document and figure from the results files."""
    from adhere.cli.quiet import quiet_libraries

    quiet_libraries()
    options = _options(arguments)
    if options.table or options.figure:
        results = read_results(options.results)
        if options.table:
            write_document(options.table, results)
        if options.figure:
            write_figure(options.figure, results)
        return
    if options.data is None:
        raise SystemExit(
            "--data FOLDER: the suites' files (rtp*, toxigen*, mc_*, wiki_toxicity*, wikitext*) are needed"
        )
    options.work.mkdir(parents=True, exist_ok=True)
    write_corpora(options.data, options.work)
    failed = [cell.name for cell in _cells(options) if not _is_known(cell, options) and not _run(cell, options)]
    print(results_path(options.results))
    if failed:
        raise SystemExit(f"not finished, for the reasons above: {', '.join(failed)}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the suites' files")
    parser.add_argument("--limit", type=int, default=300, help="rows of a suite's task")
    parser.add_argument("--pairs", type=int, default=100, help="prompts whose outputs a referee compares with base's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=[method.name for method in METHODS], help="all when left out")
    parser.add_argument("--tables", nargs="+", choices=list(SUITES), default=list(SUITES), help="both when left out")
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")
    parser.add_argument("--model", default="embedded", help="hub id or folder; the demo's when left out")
    parser.add_argument("--referee", action="append", default=[], help="a model that compares outputs with base's")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="for every method, as seed=0")
    parser.add_argument("--quick", action="store_true", help="a few steps and rows: shows that it runs, no more")
    parser.add_argument("--keep-models", action="store_true")
    parser.add_argument("--table", type=Path, help="put the tables into this Markdown file; runs nothing")
    parser.add_argument("--figure", type=Path, help="draw the trade-off, .html or .png; runs nothing")
    return parser.parse_args(arguments)


def cell_options(work: Path) -> argparse.Namespace:
    """What `make_cell` asks for beside a method and a seed, where nothing else is said."""
    return _options(["--work", str(work)])


def _cells(options: argparse.Namespace) -> list[Cell]:
    """The cells asked for, seed by seed, so that one seed of everything is there first."""
    chosen = options.methods or [method.name for method in METHODS]
    return [
        make_cell(options, table, method, seed)
        for seed in options.seeds
        for table, methods in (("main", METHODS), ("joint", JOINT_METHODS))
        for method in methods
        if table in options.tables and method.name in chosen
    ]


def make_cell(options: argparse.Namespace, table: str, method: Method, seed: int) -> Cell:
    """A cell: the demo's recipe on the table's corpus, with the settings of a method."""
    from adhere.recipe.cells import Cell
    from adhere.recipe.demo import QUICK as DEMO_QUICK
    from adhere.recipe.load import parse_recipe

    corpus = options.work / (CORPUS if table == "main" else JOINT)
    settings = [
        f"seed={seed}",
        f"model.path={json.dumps(options.model)}",
        f"corpus.path={json.dumps(str(corpus))}",
        f"corpus.holdout={json.dumps(str(options.work / HELDOUT))}",
        *REFRESHES,
        *(JOINT_SETTINGS if table == "joint" else ()),
        *((*DEMO_QUICK, *QUICK) if options.quick else ()),
        *options.settings,
        *method.settings,
    ]
    recipe = parse_recipe(demo_text(), "demo.yaml", settings)
    limits = f"limit {options.limit}; pairs {options.pairs}; referees {', '.join(options.referee)}"
    measured = f"{table}: {', '.join(SUITES[table])}; {limits}"
    tags = {"table": table, "method": method.name, "seed": str(seed), "model": method.name}
    return Cell(f"{table}-{method.name}-{seed}", recipe, tags, method.trains, measured)


def _run(cell: Cell, options: argparse.Namespace) -> bool:
    """Whether it could be; what keeps one cell from being run does not keep the others."""
    from adhere.cli.progress import Lines
    from adhere.errors import AdhereError
    from adhere.recipe.cells import run_cell

    print(f"{cell.name} ...", file=sys.stderr, flush=True)
    measures = [
        lambda cell, folder, tell, suite=suite: _suite(suite, cell, folder, tell, options)
        for suite in SUITES[cell.tags["table"]]
    ]
    try:
        told = run_cell(cell, options.work, measures, keep_models=options.keep_models, progress=Lines(sys.stderr))
    except AdhereError as error:
        print(f"{cell.name}: {error}", file=sys.stderr, flush=True)
        return False
    _add_results(told, options.results)
    shown = {
        row["name"]: round(row["value"], 4) for row in told["rows"] if row["name"].endswith(("_rate", "_perplexity"))
    }
    print(f"{cell.name}: {told['seconds']:.0f} s {shown}", file=sys.stderr, flush=True)
    return True


def _suite(suite: str, cell: Cell, folder: Path, tell: Progress, options: argparse.Namespace) -> Sequence[Measurement]:
    """What a suite measures of a cell's model, from disk where it is there already."""
    from adhere.evaluation.suite_files import read_suite, suite_path
    from adhere.recipe.evaluate import BEFORE
    from adhere.recipe.suites import evaluate_suites

    if suite_path(folder, suite, cell.model).exists():
        result: SuiteResult = read_suite(folder, suite, cell.model)
        return result.measurements
    data = [f"detection={options.work / DETECTION}"] if suite == "detection" else [str(options.data)]
    (result,) = evaluate_suites(
        folder,
        suite,
        data=data,
        limit=options.pairs if suite == "quality" else options.limit,
        referees=options.referee if suite == "quality" else (),
        name=cell.model,
        model_path=None if cell.trains else BEFORE,
        progress=tell,
    )
    return result.measurements


def results_path(folder: Path) -> Path:
    """The results file of this machine: its kind and size, not what its owner calls it."""
    from adhere.recipe.manifest import machine

    here = machine()
    named = f"{here.get('gpu') or here['cpu']}-{here['cores']}-cores"
    return folder / f"{BENCHMARK}.{re.sub(r'[^a-z0-9]+', '-', named.lower()).strip('-')}.json"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results files of the folder, the newest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{BENCHMARK}.*.json"))]
    return sorted(found, key=lambda results: str(results["date"]), reverse=True)


def _is_known(cell: Cell, options: argparse.Namespace) -> bool:
    """Whether a results file has this very cell; one of another recipe or other limits does not count."""
    return any(row.get("cell") == cell.digest for results in read_results(options.results) for row in results["rows"])


def _add_results(told: Mapping[str, Any], folder: Path) -> None:
    """Put a cell's rows into the results file of this machine, in place of an older cell of that method and seed."""
    from adhere.files import write_json_atomic
    from adhere.recipe.manifest import command, machine, now, versions

    path = results_path(folder)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    of_cell = {key: told["rows"][0][key] for key in ("table", "method", "seed", "model", "cell", "machine")}
    took = {"name": "cell_seconds", "value": told["seconds"], "low": None, "high": None, "n": 0, "unit": "s", **of_cell}
    # What suites say of single groups stays in the run folder.
    new = [{**row, "made": told["date"][:10]} for row in (*told["rows"], took) if "group" not in row]
    made = {tuple(row[key] for key in ("table", "method", "seed")) for row in new}
    rows = [row for row in rows if tuple(row[key] for key in ("table", "method", "seed")) not in made] + new
    write_json_atomic(
        path,
        {
            "benchmark": BENCHMARK,
            "command": f"python benchmarks/{command()}",
            "date": now(),
            "machine": machine(),
            "versions": versions(),
            "seeds": sorted({int(row["seed"]) for row in rows}),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
