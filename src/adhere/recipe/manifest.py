"""`manifest.json`: with what, where and by which command a run was made, so that it can be made again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from adhere import __version__
from adhere.digests import digests_of
from adhere.downloads import sha256_of
from adhere.errors import RunFolderError
from adhere.files import write_json_atomic
from adhere.recipe.inputs import corpus_config
from adhere.recipe.schema import Recipe

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "numpy", "scikit-learn", "trl")


def write_manifest(folder: Path, recipe: Recipe) -> None:
    """Write the manifest of a run that begins.

    Raises:
        RunFolderError: it cannot be written.
    """
    write_json_atomic(folder / "manifest.json", manifest(recipe))


def manifest(recipe: Recipe) -> dict[str, Any]:
    """What the manifest says."""
    return {
        "command": command(),
        "date": now(),
        "method": recipe.method,
        "seeds": [recipe.seed],
        "model": recipe.model.path,
        "corpus": corpus_identity(recipe),
        "versions": versions(),
        "machine": machine(),
    }


def add_digests(folder: Path) -> None:
    """Write into the manifest of a run that ends what all its files are that nothing changes any more.

    Raises:
        RunFolderError: a file cannot be read or written.
    """
    patterns = (
        "recipe.yaml",
        "log_history.json",
        "samples/*.jsonl",
        "labels/*.jsonl",
        "guidance/iteration-????/*",
        "model/*",
    )
    try:
        told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
        write_json_atomic(folder / "manifest.json", {**told, "digests": digests_of(folder, files)})
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / 'manifest.json'} cannot be completed: {error}") from error


def command() -> str:
    """What was typed, with the program's name alone instead of where it lies."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def now() -> str:
    """Date and time with the offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def corpus_identity(recipe: Recipe) -> dict[str, str]:
    """The corpus by name, with the digest of its file where it is one."""
    config = corpus_config(recipe)
    if config.path is None:
        return {"dataset": str(config.dataset), "name": str(config.name or ""), "split": config.split}
    identity = {"path": str(recipe.corpus.path), "sha256": sha256_of(config.path)}
    return identity | ({"holdout_sha256": sha256_of(config.holdout)} if isinstance(config.holdout, Path) else {})


def versions() -> dict[str, str]:
    """Versions of Python, `adhere` and what it computes with."""
    found = {"adhere": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int | float]:
    """The machine's kind and size; not its name or address."""
    import torch

    found: dict[str, str | int | float] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(_memory() / 2**30, 1),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
        found["gpus"] = torch.cuda.device_count()
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
