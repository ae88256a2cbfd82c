"""Checkpoints of a run: which are whole, which a killed process left in pieces, and which were damaged afterwards."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

from adhere.digests import DIGESTS, broken

DAMAGED = "damaged"
"""Folder in a run folder for what was whole once and is not any more."""

_NAME = re.compile(r"checkpoint-(\d+)")
_TORCH_FILES = ("optimizer.pt", "scheduler.pt")
_SHARDED = ("optimizer_0/.metadata", "pytorch_model_fsdp_0/.metadata", "scheduler.pt")
_GATHERED = ("optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt")


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
        for name in (*_states(checkpoint), *(file.name for file in checkpoint.glob("rng_state*.pth"))):
            if not (checkpoint / name).exists():
                return f"{name} is missing"
            if "/" not in name and not zipfile.is_zipfile(checkpoint / name):
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
    for file, wrong in (broken(checkpoint) or {}).items():
        return f"{file.relative_to(checkpoint).as_posix()} {wrong}"
    return None


def _states(checkpoint: Path) -> tuple[str, ...]:
    """The files with the state of training beside the weights: of one process or DDP, of FSDP2, of DeepSpeed."""
    if (checkpoint / "pytorch_model_fsdp_0").exists():
        return _SHARDED
    if (checkpoint / "pytorch_model_fsdp.bin").exists():
        return _GATHERED
    if (checkpoint / "latest").exists():
        tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
        return (f"{tag}/.", *(f"{tag}/{file.name}" for file in (checkpoint / tag).glob("*.pt")))
    return _TORCH_FILES


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that can be resumed from.

    Pieces of newer ones, which a killed process left, are removed. One that was whole and is damaged now is moved, for a
    person to look at, to `damaged/`.
    """
    for _, path in reversed(checkpoints(folder)):
        if fault(path) is None:
            return path
        if (path / DIGESTS).exists() and not (aside := folder / DAMAGED / path.name).exists():
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
        else:
            shutil.rmtree(path)
    return None
