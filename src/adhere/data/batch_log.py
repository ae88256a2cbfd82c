"""An append-only JSONL file that is written a whole batch at a time and survives being killed at any byte.

The first line is a header, each other line a record with `batch` and `batch_size`, the number of records of its batch.
A batch counts when all its lines are there. What a killed process left of the last batch is cut off when the file is
opened for writing again, and not read before; anything else that doesn't fit means that the file is damaged, and is an
error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adhere.errors import RunFolderError
from adhere.files import append_whole, cannot_write, whole_file

Json = dict[str, object]


@dataclass(frozen=True)
class LogState:
    """How much of a file counts: whole batches, their records, and the bytes up to the end of the last one."""

    header: Json | None
    batches: int = 0
    records: int = 0
    size: int = 0


def open_log(path: Path, header: Mapping[str, object]) -> LogState:
    """Make the file with its header, or open it and cut off an unfinished batch.

    Raises:
        RunFolderError: the file has another header (which field, what it is, what was expected), is damaged, or cannot
            be written.
    """
    state = read_state(path)
    if state.header is None:
        _cut(path, 0)
        append_whole(path, _line(header))
        return read_state(path)
    for name, expected in header.items():
        found = state.header.get(name)
        if found != expected:
            raise RunFolderError(
                f"{path}: made with {name} {found!r}, this run has {name} {expected!r}: resume with the recipe and "
                "the version it was made with, choose another output folder, or delete the file"
            )
    _cut(path, state.size)
    return state


def append_batch(path: Path, batch: int, records: Sequence[Mapping[str, object]]) -> None:
    """Write one batch, on the disk when this returns; the file is as before when it fails.

    Raises:
        RunFolderError: it cannot be written.
        ValueError: no records, or NaN or an infinity in them.
    """
    if not records:
        raise ValueError(f"batch {batch} for {path} has no records")
    marks = {"batch": batch, "batch_size": len(records)}
    append_whole(path, b"".join(_line({**marks, **record}) for record in records))


def replace_records(path: Path, change: Callable[[int, Json], Json]) -> None:
    """Put other records in the place of those of the whole batches, all at once: a reader finds the old or the new file.

    Args:
        change: gets the number of a record, from 0, and the record without its marks.

    Raises:
        RunFolderError: the file is damaged, or cannot be written.
    """
    with whole_file(path) as part, open(part, "wb") as stream:
        number = 0
        for state, records in _batches(path):
            if not records and state.header is not None:
                stream.write(_line(state.header))
            for record in records:
                marks = {name: record.pop(name) for name in ("batch", "batch_size")}
                stream.write(_line({**marks, **change(number, record)}))
                number += 1


def read_state(path: Path) -> LogState:
    """What counts of a file; nothing of one that is missing, or has not even a whole header.

    Raises:
        RunFolderError: the file is damaged or cannot be read.
    """
    state = LogState(None)
    for latest, _ in _batches(path):
        state = latest
    return state


def read_records(path: Path) -> Iterator[Json]:
    """The records of the whole batches, without their marks.

    Raises:
        RunFolderError: the file is damaged or cannot be read.
    """
    for _, records in _batches(path):
        for record in records:
            del record["batch"], record["batch_size"]
            yield record


def _batches(path: Path) -> Iterator[tuple[LogState, list[Json]]]:
    """The state after the header and after every whole batch, with the records of that batch."""
    try:
        stream = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror or error}") from error
    with stream:
        header_line = stream.readline()
        if not header_line.endswith(b"\n"):
            return
        header = _parsed(header_line)
        if header is None:
            raise _damaged(path, 1)
        state = LogState(header, size=len(header_line))
        yield state, []
        batch: list[Json] = []
        size = state.size
        torn = False  # from here on something of the last batch is missing: nothing whole of a later batch may follow
        for number, line in enumerate(stream, start=2):
            record = _parsed(line) if line.endswith(b"\n") else None
            if record is not None and record.get("batch") != state.batches:
                raise _damaged(path, number)
            if torn or record is None:
                torn = True
                continue
            batch.append(record)
            size += len(line)
            if len(batch) == record.get("batch_size"):
                state = LogState(header, state.batches + 1, state.records + len(batch), size)
                yield state, batch
                batch = []


def _parsed(line: bytes) -> Json | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"


def _cut(path: Path, size: int) -> None:
    try:
        if path.exists() and path.stat().st_size > size:
            os.truncate(path, size)
    except OSError as error:
        raise cannot_write(path, error) from error


def _damaged(path: Path, line: int) -> RunFolderError:
    return RunFolderError(
        f"{path}: damaged at line {line}: not what a killed run leaves, so nothing is cut off; restore the file, or "
        "delete it to make this iteration's again"
    )
