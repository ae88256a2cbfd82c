"""`adhere doctor`: is everything in a run folder there and whole, and what to do where it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from adhere.digests import changed
from adhere.errors import AdhereError, RunFolderError
from adhere.recipe.checkpoints import DAMAGED
from adhere.recipe.finding import REPAIR, Finding
from adhere.recipe.folder import FINISHED, MODEL, RECIPE, finished, saved_recipe, was_begun
from adhere.recipe.lock import NAME as LOCK
from adhere.recipe.lock import lock_owner
from adhere.recipe.resumable_state import state_findings

_JSON_FILES = (
    "manifest.json",
    FINISHED,
    "log_history.json",
    "summary.json",
    "costs.json",
    "targets.json",
    "times.json",
)
_LOGS = ("events.jsonl", "costs.jsonl", "labels/corpus.jsonl")
_OURS = {
    RECIPE, LOCK, MODEL, DAMAGED, "anchors", "clock.json", "comparison.html", "comparison.json", "evaluation", "events.jsonl",
    "costs.jsonl", "faults", "guidance", "labels", "measurements", "report.html", "samples", "sft", "snapshots", "stages",
    "worker", "worker.log", *_JSON_FILES,
}  # fmt: skip
_OF_TRACKERS = {"runs", "wandb", "trackio", "mlruns", "swanlog", "dvclive"}


def doctor(run_folder: Path) -> list[Finding]:
    """Look through a run folder; changes nothing.

    Raises:
        RunFolderError: there is no such folder, or it is nobody's run.
    """
    if not run_folder.is_dir():
        raise RunFolderError(f"{run_folder} is no folder; give the folder of a run")
    if not was_begun(run_folder):
        raise RunFolderError(f"{run_folder} holds no run: it has no {RECIPE}; give the folder of a run")
    folder = run_folder.resolve()  # digests name files by where they are, whatever way led there
    return [
        *_recipe(folder),
        *_lock(folder),
        *_json_files(folder),
        *_logs(folder),
        *state_findings(folder),
        *_foreign(folder),
    ]


def _recipe(folder: Path) -> Iterator[Finding]:
    try:
        recipe = saved_recipe(folder)
    except AdhereError as error:
        yield Finding("damaged", str(error), "put the recipe back that the run was begun with, or begin anew elsewhere")
    else:
        yield Finding("ok", f"recipe.yaml: a run of the method {recipe.method}")


def _lock(folder: Path) -> Iterator[Finding]:
    if not (folder / LOCK).exists():
        return
    owner = lock_owner(folder)
    if owner is None:
        yield Finding("warning", f"{LOCK} says nothing that can be read", "the next run takes it over")
    elif owner.alive():
        yield Finding("ok", f"at work: process {owner.pid} on {owner.host} since {owner.start}")
    else:
        yield Finding("warning", f"process {owner.pid} died at work here", "go on with: adhere train RECIPE --resume")


def _json_files(folder: Path) -> Iterator[Finding]:
    evaluations = sorted(path.relative_to(folder).as_posix() for path in (folder / "evaluation").rglob("*.json"))
    for name in (*_JSON_FILES, *evaluations):
        path = folder / name
        if not path.exists():
            continue
        try:
            json.loads(path.read_text(encoding="utf-8"))
            yield Finding("ok", name)
        except (OSError, ValueError) as error:
            again = "adhere train RECIPE --resume" if name not in evaluations else "adhere evaluate"
            advice = f"adhere doctor --repair moves it aside, and {again} writes it again"
            # Only a run that has not ended writes its log and its costs again.
            with_it = (folder / FINISHED,) if name in ("log_history.json", "costs.json", FINISHED) else ()
            yield Finding("damaged", f"{name}: {error}", advice, tuple({path, *(p for p in with_it if p.exists())}))
    yield from _as_written(folder)
    if (folder / RECIPE).exists() and not (folder / "manifest.json").exists():
        yield Finding(
            "warning", "manifest.json is missing", "a resume writes it again; of a run that ended, nobody can tell"
        )


def _as_written(folder: Path) -> Iterator[Finding]:
    """The manifest and the log of a run that ended are as they were."""
    done = finished(folder) or {}
    told = done.get("digests")
    for path, what in (changed(folder, told) if isinstance(told, dict) else {}).items():
        if path.exists() and not _unreadable(path):
            yield Finding("damaged", f"{path.name} {what}", REPAIR, (path, folder / FINISHED))


def _unreadable(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return path.suffix == ".json"
    return False


def _logs(folder: Path) -> Iterator[Finding]:
    for name in _LOGS:
        path = folder / name
        if not path.exists():
            continue
        bad = [number for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1) if not _is_json(line)]
        if not bad:
            yield Finding("ok", name)
        elif name == "labels/corpus.jsonl":
            yield Finding("damaged", f"{name}: line {bad[0]} is no JSON", REPAIR, (path,))
        else:
            yield Finding("warning", f"{name}: line {bad[0]} is no JSON and is left out", "the rest of it counts")


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict | list)
    except ValueError:
        return False


def _foreign(folder: Path) -> Iterator[Finding]:
    """What a stopped process left, and what is nobody's here."""
    for path in sorted(folder.rglob(".*.part*")):
        yield Finding(
            "warning", f"{path.relative_to(folder).as_posix()} was left by a stopped run", "it may be deleted"
        )
    for path in sorted(folder.iterdir()):
        if path.name in _OURS | _OF_TRACKERS or path.name.startswith((".", "checkpoint-")):
            continue
        yield Finding("warning", f"{path.name} is nothing that adhere writes", "it is left alone")
