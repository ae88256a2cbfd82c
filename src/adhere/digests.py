"""What a file was when it was written: its size and sha256, so that damage is found later.

A folder that is written whole (a checkpoint, a guidance, a model) has a `digests.json`, written last:

    {"model.safetensors": {"bytes": 269060552, "sha256": "…"}, …}

Names are relative to the folder and may lead out of it (`../../samples/iteration-0000.jsonl`: what a guidance was made of).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adhere.downloads import sha256_of
from adhere.errors import RunFolderError
from adhere.files import force_to_disk, write_json_atomic

DIGESTS = "digests.json"

Digests = dict[str, dict[str, object]]


def digests_of(folder: Path, files: Iterable[Path]) -> Digests:
    """Size and sha256 of files, by their names relative to `folder`. Several are read at a time."""
    in_order = sorted(files)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        told = list(threads.map(lambda file: (file.stat().st_size, sha256_of(file)), in_order))
    names = (Path(os.path.relpath(file, folder)).as_posix() for file in in_order)
    return {name: {"bytes": size, "sha256": digest} for name, (size, digest) in zip(names, told, strict=True)}


def seal(folder: Path, made_of: Iterable[Path] = ()) -> None:
    """Force all files of a folder to the disk and write their digests, which is the last file to appear.

    Args:
        folder: everything in it, and below, is to stay as it is.
        made_of: files elsewhere whose digests are written down with them.

    Raises:
        RunFolderError: a file cannot be read or written.
    """
    (folder / DIGESTS).unlink(missing_ok=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    force_to_disk(folder)
    try:
        found = digests_of(folder, [*files, *(file for file in made_of if file.exists())])
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be read: {error.strerror or error}") from error
    write_json_atomic(folder / DIGESTS, found)


def broken(folder: Path) -> dict[Path, str] | None:
    """What is not as it was when the folder was sealed, by file; None when it never was.

    A `digests.json` that cannot be read is itself broken.
    """
    path = folder / DIGESTS
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return changed(folder, told)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        return {path: f"cannot be read ({error})"}


def changed(folder: Path, told: Mapping[str, Mapping[str, object]]) -> dict[Path, str]:
    """The files that are not as these digests say, each with what is wrong."""
    wrong: dict[Path, str] = {}
    for name, expected in told.items():
        file = Path(os.path.normpath(folder / name))
        try:
            size = file.stat().st_size
            if size != expected["bytes"]:
                wrong[file] = f"has {size:,} bytes instead of {expected['bytes']:,}"
            elif sha256_of(file) != expected["sha256"]:
                wrong[file] = "has other bytes than were written (sha256)"
        except FileNotFoundError:
            wrong[file] = "is missing"
        except OSError as error:
            wrong[file] = f"cannot be read ({error.strerror or error})"
    return wrong
