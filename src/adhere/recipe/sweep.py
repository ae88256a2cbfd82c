"""`adhere sweep`: the trade-off curve over a setting, with other methods as points.

One cell (`cells`) a value and seed, and one a baseline and seed, all below one folder; after every cell that ends, the
results file and the page are made anew from those that are finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from adhere.errors import AdhereError, RecipeError
from adhere.evaluation.evaluation_files import measurement_of
from adhere.files import write_json_atomic, write_text_atomic
from adhere.recipe.cells import Cell, finished_cell, run_cell
from adhere.recipe.check import check_recipe
from adhere.recipe.evaluate import BEFORE
from adhere.recipe.load import load_recipe
from adhere.recipe.manifest import command, machine, now, versions
from adhere.recipe.progress import Progress, silent
from adhere.recipe.schema import Method
from adhere.records import Measurement

RESULTS, PAGE = "sweep.json", "sweep.html"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is swept: cells in the order in which they are run, below `folder`."""

    folder: Path
    key: str
    values: tuple[str, ...]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    cells: tuple[Cell, ...]


def plan_sweep(
    recipe: Path,
    over: str,
    seeds: Sequence[int] = (0,),
    baselines: Sequence[str] = (),
    output: Path | None = None,
    settings: Sequence[str] = (),
) -> Sweep:
    """Work out the cells, and validate every recipe, before anything is run.

    Args:
        recipe: the YAML file.
        over: a setting and its values, as `constraints.0.weight=0.5,1,2,4`.
        seeds: of each value and baseline.
        baselines: other methods as points beside the curve; `before` is the model before fine-tuning.
        output: the sweep's folder; without it the recipe's `output_dir` with `-sweep` after its name.
        settings: laid over the recipe, as `training.max_steps=50`.

    Raises:
        RecipeError: a value does not fit the setting, a method is unknown, or there is nothing to sweep.
    """
    key, values = parse_over(over)
    known = (BEFORE, *get_args(Method))
    for method in baselines:
        if method not in known:
            raise RecipeError(f"--baselines: there is no method {method!r}; methods are {', '.join(known)}")
    if not seeds:
        raise RecipeError("--seeds: give at least one, as --seeds 0,1")
    cells: list[Cell] = []
    for seed in seeds:  # a whole curve before the next seed begins
        cells += [_cell(recipe, [*settings, f"{key}={value}"], seed, key, value) for value in values]
        cells += [_baseline(recipe, settings, seed, method) for method in baselines]
    base = cells[0].recipe.output_dir
    folder = output if output is not None else base.with_name(f"{base.name}-sweep")
    return Sweep(folder, key, tuple(values), tuple(seeds), tuple(baselines), tuple(cells))


def parse_over(over: str) -> tuple[str, list[str]]:
    """`a.b=1,2` as the setting and its values, each once. Raises RecipeError where it is none of these."""
    key, equals, text = over.partition("=")
    values = list(dict.fromkeys(value.strip() for value in text.split(",") if value.strip()))
    if not equals or not key.strip() or not values:
        raise RecipeError(
            f"--over {over!r}: write it as section.key=value,value, for example constraints.0.weight=0.5,1,2,4"
        )
    if key.strip() in ("seed", "output_dir", "method"):
        instead = {"seed": "--seeds", "method": "--baselines"}.get(key.strip(), "--output")
        raise RecipeError(f"--over {over!r}: {key.strip()} is not swept; use {instead}")
    return key.strip(), values


def run_sweep(sweep: Sweep, *, keep_models: bool = False, progress: Progress | None = None) -> Path:
    """Run what is not finished yet; returns the page.

    Raises:
        AdhereError: as `check_recipe`, `train_recipe` and `evaluate_run`.
    """
    tell = progress or silent
    open_cells = [cell for cell in sweep.cells if finished_cell(cell, sweep.folder) is None]
    for method in dict.fromkeys(cell.recipe.method for cell in open_cells if cell.trains):
        first = next(cell for cell in open_cells if cell.trains and cell.recipe.method == method)
        tell(f"checking {method}", 0, 0)
        output = first.folder(sweep.folder)
        check_recipe(first.recipe.model_copy(update={"output_dir": output}), resume=True)
    failed: list[tuple[Cell, AdhereError]] = []
    for number, cell in enumerate(sweep.cells):
        if finished_cell(cell, sweep.folder) is None:
            where = f"{cell.name} ({number + 1}/{len(sweep.cells)}): "
            try:
                run_cell(cell, sweep.folder, keep_models=keep_models, progress=_within(where, tell))
            except AdhereError as error:  # what keeps one from being run need not keep the others
                failed.append((cell, error))
                tell(f"{where}failed", 0, 0, str(error))
            write_sweep(sweep)
    page = write_sweep(sweep)
    if failed:
        reasons = "\n".join(f"{cell.name}: {error}" for cell, error in failed)
        raise type(failed[0][1])(
            f"{len(failed)} of {len(sweep.cells)} cells could not be finished; the others are in {page}\n{reasons}"
        )
    return page


def _within(where: str, tell: Progress) -> Progress:
    def told(stage: str, done: int, total: int, note: str = "") -> None:
        tell(where + stage, done, total, note)

    return told


def write_sweep(sweep: Sweep) -> Path:
    """Make results file and page from the cells that are finished; returns the page."""
    from adhere.report.sweep import sweep_page

    told = sweep_results(sweep)
    write_json_atomic(sweep.folder / RESULTS, told)
    page = sweep.folder / PAGE
    write_text_atomic(page, sweep_page(sweep_measurements(sweep), sweep.key, sweep.values, sweep.folder.name, told))
    return page


def sweep_results(sweep: Sweep) -> dict[str, Any]:
    """The results of the finished cells as one results file; every row says its machine."""
    found = [told for cell in sweep.cells if (told := finished_cell(cell, sweep.folder)) is not None]
    rows = [row for told in found for row in told["rows"]]
    return {
        "benchmark": "sweep",
        "command": command(),
        "date": now(),
        "machine": machine(),
        "versions": versions(),
        "seeds": sorted({int(row["seed"]) for row in rows}),
        "over": sweep.key,
        "values": list(sweep.values),
        "cells": {"finished": len(found), "all": len(sweep.cells)},
        "rows": rows,
    }


def sweep_measurements(sweep: Sweep) -> list[Measurement]:
    """The measurements of the finished cells, with the tags `model` (value or method as tables call it) and `seed`."""
    found: list[Measurement] = []
    for cell in sweep.cells:
        told = finished_cell(cell, sweep.folder)
        for row in told["rows"] if told is not None else ():
            measured = measurement_of(row)
            found.append(replace(measured, tags={**measured.tags, "model": str(row["model"])}))
    return found


def _cell(recipe: Path, settings: Sequence[str], seed: int, key: str, value: str) -> Cell:
    loaded = load_recipe(recipe, [*settings, f"seed={seed}"])
    label = f"{key.split('.')[-1]} = {value}"
    tags = {"method": loaded.method, "model": label, "setting": key, "at": value, "seed": str(seed)}
    return Cell(f"{key}={value}-{seed}", loaded, tags)


def _baseline(recipe: Path, settings: Sequence[str], seed: int, method: str) -> Cell:
    named = "sft" if method == BEFORE else method
    loaded = load_recipe(recipe, [*settings, f"method={json.dumps(named)}", f"seed={seed}"])
    tags = {"method": method, "model": method, "seed": str(seed)}
    return Cell(f"{method}-{seed}", loaded, tags, trains=method != BEFORE)
