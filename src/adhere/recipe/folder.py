"""The run folder: whose it is, and whether a run may begin or go on in it.

recipe.yaml · manifest.json · run.lock · events.jsonl · worker.log · samples/ · labels/ · snapshots/ · guidance/ ·
stages/ · checkpoint-N/ · model/ ·
costs.jsonl · costs.json · log_history.json · evaluation/ · summary.json · report.html · faults/ · damaged/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adhere.errors import RecipeError, RunFolderError
from adhere.files import write_text_atomic
from adhere.guidance.config import ExecutionConfig
from adhere.recipe.load import dump_recipe, load_recipe
from adhere.recipe.lock import NAME as LOCK
from adhere.recipe.lock import refuse_if_held
from adhere.recipe.manifest import corpus_identity, write_manifest
from adhere.recipe.schema import Recipe

RECIPE = "recipe.yaml"
MODEL = "model"
FINISHED = "training.json"
"""Written when training is over and `model/` is whole: how long it took, in seconds and steps."""

_FREE_TO_CHANGE = ("output_dir", "evaluation", "health")
"""Sections of a recipe that a resumed run may have otherwise: they change nothing, or only what follows a fault."""


def check_folder(recipe: Recipe, resume: bool) -> None:
    """Make sure that a run may begin, or go on, in the recipe's folder.

    Raises:
        RunFolderError: the folder holds another run or other things, or another process is at work in it.
    """
    folder = recipe.output_dir
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"output_dir {str(folder)!r} is a file; give a folder")
    if not folder.exists():
        return
    refuse_if_held(folder)
    held = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    if RECIPE not in held:
        if held and held != ["manifest.json"]:  # a manifest alone: killed in `begin`, before there was a recipe
            shown = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "")
            raise RunFolderError(
                f"output_dir {str(folder)!r} is not empty and holds no run of adhere: it has {shown}; choose another"
            )
        return
    if not resume:
        raise RunFolderError(
            f"output_dir {str(folder)!r} holds another run: {describe(folder)}. Give --resume to go on with it, or "
            "choose another folder (output_dir)"
        )
    if (difference := first_difference(saved_recipe(folder), recipe)) is not None:
        raise RunFolderError(
            f"{folder / RECIPE}: the run was begun with another recipe: {difference}. Resume it with the recipe it was "
            "begun with, or choose another folder (output_dir)"
        )
    if (corpus := _manifest(folder).get("corpus")) not in (None, corpus_identity(recipe)):
        raise RunFolderError(
            f"{folder}: the corpus is not what it was when the run was begun ({corpus}): put that file back, or choose "
            "another folder (output_dir)"
        )


def begin(recipe: Recipe) -> None:
    """Make the folder a run's by writing its recipe, and its manifest before that: a folder with a recipe has both."""
    path = recipe.output_dir / RECIPE
    if not path.exists() or not _manifest(recipe.output_dir):  # a damaged one was moved aside
        write_manifest(recipe.output_dir, recipe)
    if not path.exists() or saved_recipe(recipe.output_dir) != recipe:  # its evaluation may be another one now
        write_text_atomic(path, dump_recipe(recipe))


def was_begun(folder: Path) -> bool:
    """True when a folder is that of a run, though its recipe may be lost: its manifest or its events are ours."""
    return (folder / RECIPE).exists() or "method" in _manifest(folder) or (folder / "events.jsonl").exists()


def saved_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        RunFolderError: there is none, or it cannot be read.
    """
    if not (folder / RECIPE).exists():
        raise RunFolderError(f"{folder} holds no run: it has no {RECIPE}; give the folder of a run")
    try:
        return load_recipe(folder / RECIPE)
    except RecipeError as error:
        raise RunFolderError(f"{folder / RECIPE} was written by another version or changed by hand: {error}") from error


def finished(folder: Path) -> dict[str, Any] | None:
    """What was noted when training ended; None when it has not."""
    return _json(folder / FINISHED)


def describe(folder: Path) -> str:
    """The run of a folder in a few words."""
    told = _manifest(folder)
    begun = f"{told.get('method', 'of an unknown method')}, begun {told.get('date', 'at an unknown time')}"
    return f"{begun}, {'finished' if finished(folder) else 'not finished'}"


def _manifest(folder: Path) -> dict[str, Any]:
    return _json(folder / "manifest.json") or {}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def first_difference(before: Recipe, now: Recipe) -> str | None:
    """The first setting of two recipes that differs and decides what is trained; None when there is none."""
    return _difference(_deciding(before), _deciding(now))


def _deciding(recipe: Recipe) -> object:
    told = recipe.model_dump(mode="json", exclude=set(_FREE_TO_CHANGE))
    # A run that paused for want of verdicts may go on with fewer, or by asking the service in another way.
    told["guidance"].pop("max_without_verdict")
    for name in (
        "schedule",
        *ExecutionConfig.model_fields,
    ):  # when and where guidance is made may change at any checkpoint
        told["guidance"].pop(name)
    told["constraints"] = _without_service(told["constraints"])
    told["sampling"] = recipe.sampling.settings()  # not where a server is, or how much of a GPU an engine takes
    return told


def _without_service(told: object) -> object:
    if isinstance(told, list):
        return [_without_service(part) for part in told]
    if not isinstance(told, dict):
        return told
    left_out = ("limits", "price", "cache") if "kind" in told else ()
    return {key: _without_service(value) for key, value in told.items() if key not in left_out}


def _difference(before: object, now: object, path: str = "") -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            found = _difference(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            if (found := _difference(one, other, f"{path}[{number}]")) is not None:
                return found
        return None
    return None if before == now else f"{path} was {before!r} and is {now!r} now"
