"""`adhere doctor`: is everything in a run folder there and whole, and what to do where it is not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adhere.data.batch_log import read_state
from adhere.errors import AdhereError, ModelError, RunFolderError
from adhere.models.outline import check_weights
from adhere.recipe.checkpoints import checkpoints, fault
from adhere.recipe.folder import MODEL, finished, saved_recipe
from adhere.recipe.lock import NAME as LOCK
from adhere.recipe.lock import lock_owner

Severity = Literal["ok", "warning", "damaged"]
_JSON_FILES = ("manifest.json", "training.json", "log_history.json", "summary.json", "costs.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    severity: Severity
    what: str
    advice: str = ""


def doctor(run_folder: Path) -> list[Finding]:
    """Look through a run folder; changes nothing.

    Raises:
        RunFolderError: there is no such folder.
    """
    if not run_folder.is_dir():
        raise RunFolderError(f"{run_folder} is no folder; give the folder of a run")
    return [
        *_recipe(run_folder),
        *_lock(run_folder),
        *_json_files(run_folder),
        *_stores(run_folder),
        *_guidance(run_folder),
        *_checkpoints(run_folder),
        *_model(run_folder),
    ]


def _recipe(folder: Path) -> list[Finding]:
    try:
        recipe = saved_recipe(folder)
    except AdhereError as error:
        return [
            Finding("damaged", str(error), "put the recipe back that the run was begun with, or begin anew elsewhere")
        ]
    return [Finding("ok", f"recipe.yaml: a run of the method {recipe.method}")]


def _lock(folder: Path) -> list[Finding]:
    if not (folder / LOCK).exists():
        return []
    owner = lock_owner(folder)
    if owner is None:
        return [Finding("warning", f"{LOCK} says nothing that can be read", "the next run takes it over")]
    if owner.alive():
        return [Finding("ok", f"at work: process {owner.pid} on {owner.host} since {owner.start}")]
    return [Finding("warning", f"process {owner.pid} died at work here", "go on with: adhere train RECIPE --resume")]


def _json_files(folder: Path) -> list[Finding]:
    findings = []
    evaluations = sorted(path.relative_to(folder).as_posix() for path in (folder / "evaluation").glob("*.json"))
    for name in (*_JSON_FILES, *evaluations):
        path = folder / name
        if not path.exists():
            continue
        try:
            json.loads(path.read_text(encoding="utf-8"))
            findings.append(Finding("ok", name))
        except (OSError, ValueError) as error:
            findings.append(
                Finding("damaged", f"{name}: {error}", "delete it; it is written again by the command it is of")
            )
    if (folder / "recipe.yaml").exists() and not (folder / "manifest.json").exists():
        findings.append(Finding("warning", "manifest.json is missing", "nobody can tell how this run was made"))
    return findings


def _stores(folder: Path) -> list[Finding]:
    findings = []
    for path in sorted([*folder.glob("samples/iteration-*.jsonl"), *folder.glob("labels/iteration-*.jsonl")]):
        name = path.relative_to(folder).as_posix()
        try:
            state = read_state(path)
        except RunFolderError as error:
            findings.append(Finding("damaged", str(error), "restore the file, or delete it and resume"))
            continue
        planned = state.header.get("batches") if state.header else None
        torn = path.stat().st_size > state.size
        if planned == state.batches and not torn:
            findings.append(Finding("ok", f"{name}: {state.records:,} records"))
        else:
            told = f"{name}: {state.batches} of {planned or 'unknown'} batches" + (
                ", the last one torn" if torn else ""
            )
            findings.append(Finding("warning", told, "resume the run: it goes on after the last whole batch"))
    return findings


def _guidance(folder: Path) -> list[Finding]:
    findings = []
    for path in sorted((folder / "guidance").glob("iteration-*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".partial":
            findings.append(Finding("warning", f"{name} was left by a stopped run", "resume the run: it is made again"))
            continue
        try:
            json.loads((path / "guidance.json").read_text(encoding="utf-8"))
            check_weights(path)
            findings.append(Finding("ok", name))
        except (OSError, ValueError, ModelError) as error:
            findings.append(
                Finding("damaged", f"{name}: {error}", "delete the folder; a resume from before it makes it again")
            )
    return findings


def _checkpoints(folder: Path) -> list[Finding]:
    findings = []
    for step, path in [
        *(found for stage in folder.glob("stages/*") for found in checkpoints(stage)),
        *checkpoints(folder),
    ]:
        wrong = fault(path)
        if wrong is None:
            findings.append(Finding("ok", f"{path.name}: whole"))
        else:
            findings.append(
                Finding(
                    "warning", f"checkpoint of step {step} cannot be used: {wrong}", "a resume skips and removes it"
                )
            )
    return findings


def _model(folder: Path) -> list[Finding]:
    path = folder / MODEL
    if finished(folder) is None:
        return [Finding("warning", "training has not ended", "go on with: adhere train RECIPE --resume")]
    if not path.is_dir():
        return [Finding("damaged", f"{MODEL}/ is missing though training ended", "delete training.json and resume")]
    try:
        check_weights(path)
    except ModelError as error:
        return [Finding("damaged", str(error), f"delete {MODEL}/ and training.json, and resume")]
    if not any(path.glob("*.safetensors")):
        return [Finding("damaged", f"{MODEL}/ holds no weights", f"delete {MODEL}/ and training.json, and resume")]
    return [Finding("ok", f"{MODEL}/: whole")]
