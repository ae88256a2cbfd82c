"""Cells of an experiment: runs that differ in a setting, a method or a seed, each trained, measured and put away.

A cell is a run folder whose name ends in a digest of its recipe, so that what another recipe gave is never taken for it.
When everything is measured, its results are in `cell.json`, and only then are its models removed: an experiment that was
stopped goes on with the cell it was in, and a cell that another machine has finished is copied here as a folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adhere.costs import COSTS, read_costs
from adhere.downloads import sha256_of
from adhere.errors import RunFolderError
from adhere.evaluation.evaluation_files import evaluation_path, read_evaluation
from adhere.files import write_json_atomic
from adhere.recipe.evaluate import BEFORE, evaluate_run
from adhere.recipe.folder import MODEL, begin, check_folder, finished
from adhere.recipe.lock import run_lock
from adhere.recipe.manifest import command, machine, now, versions
from adhere.recipe.progress import Progress, silent
from adhere.recipe.schema import Recipe
from adhere.recipe.train import train_recipe
from adhere.records import Measurement

CELL = "cell.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of an experiment.

    Args:
        name: of its folder, before the digest.
        recipe: what is run; its `output_dir` is not looked at.
        tags: of every row it gives.
        trains: False for the model before fine-tuning, which is only measured.
        measured_by: words that say how it is measured, where the recipe does not: part of the digest.
    """

    name: str
    recipe: Recipe
    tags: Mapping[str, str] = field(default_factory=dict)
    trains: bool = True
    measured_by: str = ""

    @property
    def model(self) -> str:
        """What its evaluations call the model."""
        return self.recipe.method if self.trains else BEFORE

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that change with anything that decides the cell's numbers.

        A file that the recipe names counts by what is in it: the same cell has the same digest in another folder.
        """
        dumped = self.recipe.model_dump(mode="json", exclude={"output_dir"})
        told = [_by_content(dumped), self.trains, self.measured_by]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]

    def folder(self, work: Path) -> Path:
        """Its run folder."""
        return work / f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', self.name)}.{self.digest}"


Measure = Callable[[Cell, Path, Progress], Sequence[Measurement]]
"""Measures the trained model of a cell in its run folder, or reads what is there already."""


def finished_cell(cell: Cell, work: Path) -> dict[str, Any] | None:
    """What a cell gave; None when it is not finished.

    Raises:
        RunFolderError: its file is damaged.
    """
    path = cell.folder(work) / CELL
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found["rows"], list) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); delete the folder {path.parent} to run it again") from error


def run_cell(
    cell: Cell,
    work: Path,
    measures: Sequence[Measure] = (),
    *,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and measure a cell, or go on with it, or read it where it is finished.

    Args:
        work: the folder that its run folder is in.
        measures: what is measured besides the recipe's own evaluation and what training cost.
        keep_models: leave weights on the disk; without it they are removed once everything is measured.

    Returns:
        what is in `cell.json`: `rows` with the cell's tags and the machine, and where, when and by what they were made.

    Raises:
        AdhereError: as `train_recipe` and `evaluate_run`.
    """
    found = finished_cell(cell, work)
    if found is not None:
        return found
    folder, tell = cell.folder(work), progress or silent
    recipe = cell.recipe.model_copy(update={"output_dir": folder})
    check_folder(recipe, resume=True)
    with run_lock(folder):
        start = time.monotonic()
        if cell.trains:
            train_recipe(recipe, resume=True, progress=tell)
        else:
            begin(recipe)
        measured = [*held_out(cell, folder, tell), *costs(cell, folder)]
        for measure in measures:
            measured += measure(cell, folder, tell)
        told = _told(cell, measured, time.monotonic() - start)
        write_json_atomic(folder / CELL, told)
        if not keep_models:
            remove_models(folder)
    return told


def held_out(cell: Cell, folder: Path, progress: Progress) -> Sequence[Measurement]:
    """The recipe's own evaluation of the cell's model."""
    if evaluation_path(folder, cell.model).exists():
        return read_evaluation(folder, cell.model).measurements
    model_path = None if cell.trains else BEFORE
    return evaluate_run(folder, name=cell.model, model_path=model_path, progress=progress).measurements


def costs(cell: Cell, folder: Path) -> list[Measurement]:
    """What training cost: all that was counted, each under its own name."""
    if not cell.trains:
        return []
    if not (folder / COSTS).exists():
        told = finished(folder) or {}
        return [
            Measurement("train_seconds", float(told.get("train_seconds", 0.0)), n=int(told.get("steps", 0)), unit="s")
        ]
    units = {"train_seconds": "s"}
    counted = asdict(read_costs(folder))
    return [Measurement(name, float(value), unit=units.get(name, "")) for name, value in counted.items()]


def remove_models(folder: Path) -> None:
    """Remove weights and checkpoints of a run; what was measured, drawn and logged stays."""
    for path in [folder / MODEL, folder / "stages", *folder.glob("checkpoint-*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in _WEIGHTS:
            path.unlink()


def _by_content(value: Any) -> Any:
    """Plain data with the name of every file replaced by the digest of its content."""
    if isinstance(value, dict):
        return {key: _by_content(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_by_content(inner) for inner in value]
    if isinstance(value, str) and "." in value and len(value) < 1000 and Path(value).is_file():
        return sha256_of(Path(value))
    return value


def _told(cell: Cell, measured: Sequence[Measurement], seconds: float) -> dict[str, Any]:
    here = machine()
    place = f"{here.get('gpu') or here['cpu']}, {here['cores']} cores"
    tags = {**cell.tags, "cell": cell.digest, "machine": place}
    return {
        "cell": cell.name,
        "digest": cell.digest,
        "command": command(),
        "date": now(),
        "seconds": seconds,  # of this last stretch of work; `train_seconds` counts all
        "machine": here,
        "versions": versions(),
        "rows": [{**each.to_row(), **tags} for each in measured],
    }
