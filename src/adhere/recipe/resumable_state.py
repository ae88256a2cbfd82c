"""What a resume goes on from (samples, labels, guidance, checkpoints, models), looked through for damage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adhere.data.batch_log import read_state
from adhere.digests import DIGESTS, broken, changed
from adhere.errors import ModelError, RunFolderError
from adhere.models.outline import check_weights
from adhere.recipe.checkpoints import DAMAGED, checkpoints, fault
from adhere.recipe.finding import REPAIR, Finding
from adhere.recipe.folder import MODEL, finished

STAGES = "stages"
_OF_AN_ITERATION = ("samples", "labels", "guidance", "anchors", "snapshots")


def state_findings(folder: Path) -> list[Finding]:
    """Everything that a resume reads, file by file."""
    wrong = _not_as_written(folder)
    return [
        *_stores(folder, wrong),
        *_guidance(folder, wrong),
        *_weights(folder),
        *_checkpoints(folder),
        *_model(folder),
        *_missing(folder, wrong),
    ]


def _not_as_written(folder: Path) -> dict[Path, str]:
    """Samples, labels and guidance that are not as they were when guidance was fitted, or training ended."""
    wrong: dict[Path, str] = {}
    for guidance in sorted((folder / "guidance").glob("iteration-????")):
        wrong |= broken(guidance) or {}
    if finished(folder) is not None:
        told = (_json(folder / "manifest.json") or {}).get("digests")
        wrong = {**(changed(folder, told) if isinstance(told, dict) else {}), **wrong}
    return wrong


def _json(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _stores(folder: Path, wrong: dict[Path, str]) -> Iterator[Finding]:
    for path in sorted([*folder.glob("samples/iteration-*.jsonl"), *folder.glob("labels/iteration-*.jsonl")]):
        name = path.relative_to(folder).as_posix()
        try:
            state = read_state(path)
        except RunFolderError as error:
            yield Finding("damaged", str(error).replace(str(path), name), REPAIR, (path,))
            continue
        planned = state.header.get("batches") if state.header else None
        torn = path.stat().st_size > state.size
        if path in wrong:
            yield Finding("damaged", f"{name} {wrong[path]}", REPAIR, (path,))
        elif planned == state.batches and not torn:
            yield Finding("ok", f"{name}: {state.records:,} records")
        else:
            told = f"{name}: {state.batches} of {planned or 'unknown'} batches" + (
                ", the last one torn" if torn else ""
            )
            yield Finding("warning", told, "resume the run: it goes on after the last whole batch")


def _guidance(folder: Path, wrong: dict[Path, str]) -> Iterator[Finding]:
    for path in sorted((folder / "guidance").glob("iteration-*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".partial":
            yield Finding("warning", f"{name} was left by a stopped run", "resume the run: it is made again")
            continue
        mine = [f"{file.name} {what}" for file, what in wrong.items() if file.parent == path]
        try:
            json.loads((path / "guidance.json").read_text(encoding="utf-8"))
            check_weights(path)
        except (OSError, ValueError, ModelError) as error:
            mine = mine or [str(error)]
        if mine:
            yield Finding("damaged", f"{name}: {'; '.join(mine)}", REPAIR, (path,))
        else:
            yield Finding("ok", name)


def _weights(folder: Path) -> Iterator[Finding]:
    """Copies of the policy that the rest of an iteration, or a refresh under way, needs."""
    for path in sorted([*folder.glob("anchors/*.safetensors"), *folder.glob("snapshots/*.safetensors")]):
        name = path.relative_to(folder).as_posix()
        if reason := _does_not_open(path):
            yield Finding("damaged", f"{name}: {reason}", REPAIR, (path,))
        else:
            yield Finding("ok", name)


def _does_not_open(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            return ""
    except (SafetensorError, OSError) as error:
        return str(error)


def _checkpoints(folder: Path) -> Iterator[Finding]:
    for step, path in [
        *(found for stage in folder.glob(f"{STAGES}/*") for found in checkpoints(stage)),
        *checkpoints(folder),
    ]:
        wrong = fault(path)
        if wrong is None:
            yield Finding("ok", f"{path.name}: whole")
        elif (path / DIGESTS).exists():
            advice = "a resume goes on from the one before; adhere doctor --repair moves it aside"
            yield Finding("damaged", f"{path.name}: {wrong}", advice, (path,))
        else:
            told = f"checkpoint of step {step} was left half written by a stopped run: {wrong}"
            yield Finding("warning", told, "a resume skips and removes it")


def _model(folder: Path) -> Iterator[Finding]:
    stages = sorted(path for path in folder.glob(f"{STAGES}/*") if finished(path) is not None)
    for stage in [*stages, folder]:
        path, name = stage / MODEL, (stage / MODEL).relative_to(folder).as_posix()
        done = tuple(file for file in (stage / "training.json", path) if file.exists())
        if finished(stage) is None:
            yield Finding("warning", "training has not ended", "go on with: adhere train RECIPE --resume")
        elif not path.is_dir():
            yield Finding("damaged", f"{name}/ is missing though training ended", REPAIR, done)
        elif wrong := broken(path):
            yield Finding(
                "damaged", "; ".join(f"{name}/{file.name} {what}" for file, what in wrong.items()), REPAIR, done
            )
        elif not any(path.glob("*.safetensors")):
            yield Finding("damaged", f"{name}/ holds no weights", REPAIR, done)
        else:
            try:
                check_weights(path)
                yield Finding("ok", f"{name}/: whole")
            except ModelError as error:
                yield Finding("damaged", str(error).replace(f"{folder}/", ""), REPAIR, done)


def _missing(folder: Path, wrong: dict[Path, str]) -> Iterator[Finding]:
    """Of guidance that was there: folders and files of which nothing is left, so that no other check comes by."""
    lost: Iterable[Path] = {
        file.parent if file.parent.parent.name == "guidance" else file for file in wrong if not file.exists()
    }
    for path in sorted(path for path in lost if not path.exists() and path.is_relative_to(folder)):
        name = path.relative_to(folder)
        if any((folder / DAMAGED).glob(f"*/{name.as_posix()}")):
            told = f"{name.as_posix()} was moved aside, and nothing that follows needs it"
            yield Finding("warning", told, f"what is left of it is in {DAMAGED}/")
        elif name.parts[0] in _OF_AN_ITERATION:
            advice = "adhere doctor --repair puts back the copy beside a checkpoint, where there is one"
            yield Finding("damaged", f"{name.as_posix()} is missing", advice, (path,))
