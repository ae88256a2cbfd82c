"""Checkpoints of a run: which are whole, and which a killed process left in pieces."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all checkpoints of a run, whole or not, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found)


def fault(checkpoint: Path) -> str | None:
    """What a checkpoint lacks to be resumed from; None when it is whole.

    The trainer writes `trainer_state.json` last, but not in one step: it must parse and name the step of the folder.
    """
    from safetensors import SafetensorError, safe_open

    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        return "no weights"
    index = checkpoint / "model.safetensors.index.json"
    try:
        if index.exists():
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if missing := named - {file.name for file in weights}:
                return f"{min(missing)} is missing"
        for file in weights:
            with safe_open(file, "pt"):
                pass
        for name in (*_TORCH_FILES, *(file.name for file in checkpoint.glob("rng_state*.pth"))):
            if not (checkpoint / name).exists():
                return f"{name} is missing"
            if not zipfile.is_zipfile(checkpoint / name):
                return f"{name} was cut short"
        if not any(checkpoint.glob("rng_state*.pth")):
            return "rng_state.pth is missing"
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] != int(checkpoint.name.rpartition("-")[2]):
            return f"trainer_state.json is of step {state['global_step']}"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        return f"a damaged file ({error})"
    return None


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that can be resumed from; pieces of newer ones are removed."""
    for _, path in reversed(checkpoints(folder)):
        if fault(path) is None:
            return path
        shutil.rmtree(path)
    return None
