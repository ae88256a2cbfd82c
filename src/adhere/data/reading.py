"""Rows of a file, one at a time, each with its place for messages ("corpus.jsonl, line 3").

JSONL and CSV are read here line by line rather than by `datasets`, whose messages say neither line nor cause.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from adhere.data.rows import MAX_CHARACTERS, Place, Row
from adhere.errors import CorpusError

Format = Literal["jsonl", "parquet", "csv"]
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".csv": "csv",
}  # fmt: skip


def read_rows(path: Path, file_format: Format | Literal["auto"] = "auto") -> Iterator[tuple[Place, Row]]:
    """Rows of a JSONL, Parquet or CSV file, read as they are asked for.

    Raises:
        CorpusError: the file is missing, a folder, unreadable, of an unknown suffix, empty; or a row is broken.
    """
    if file_format == "auto":
        known = SUFFIXES.get(path.suffix.lower())
        if known is None:
            raise CorpusError(
                f"{path}: cannot tell the format from the suffix {path.suffix!r}; known are {', '.join(SUFFIXES)}; "
                "corpus.format (jsonl, parquet or csv) says what it is"
            )
        file_format = known
    readers: dict[Format, Callable[[Path], Iterator[tuple[Place, Row]]]] = {
        "jsonl": _jsonl, "parquet": _parquet, "csv": _csv,
    }  # fmt: skip
    yield from readers[file_format](path)


def read_lines(path: Path) -> Iterator[tuple[Place, str]]:
    """Lines of a UTF-8 text file that hold more than white space, without their ends.

    Raises:
        CorpusError: as `read_rows`; bytes that aren't UTF-8, a line longer than `MAX_CHARACTERS`.
    """
    for place, line in _raw_lines(path):
        if line.strip():
            yield place, line.rstrip("\r\n")


def _raw_lines(path: Path) -> Iterator[tuple[Place, str]]:
    """Lines as they are, with their ends: a quoted field of a CSV may hold line feeds."""
    with open_corpus(path) as stream:
        number = 0
        # No more of a line is ever in memory: at most four bytes a character, the line's end, a mark before it.
        too_long = 4 * MAX_CHARACTERS + 6
        while raw := stream.readline(too_long):
            number += 1
            place = f"{path}, line {number}"
            line = decoded(raw, place) if len(raw) < too_long else None
            if line is not None and number == 1:
                line = line.removeprefix("\ufeff")  # the mark some editors write at the start of a file
            if line is None or len(line.rstrip("\r\n")) > MAX_CHARACTERS:
                raise CorpusError(
                    f"{place}: longer than {MAX_CHARACTERS:,} characters, the most that is taken; is every row on "
                    "its own line? A long text is cut into several rows"
                )
            yield place, line


def open_corpus(path: Path) -> IO[bytes]:
    """Open a file that should hold a corpus or prompts.

    Raises:
        CorpusError: it is missing, a folder, unreadable or empty.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115 (the caller closes it)
        empty = not stream.peek(1)
    except FileNotFoundError:
        raise CorpusError(
            f"{path}: no such file (working folder: {Path.cwd()}); give the path of an existing file"
        ) from None
    except IsADirectoryError:
        raise CorpusError(f"{path}: is a folder; give one file ({', '.join(SUFFIXES)})") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error
    if empty:
        stream.close()
        raise CorpusError(f"{path}: the file is empty; there is nothing to learn from")
    return stream


def decoded(raw: bytes, place: Place) -> str:
    """The text of UTF-8 bytes.

    Raises:
        CorpusError: they aren't UTF-8; the message says which byte.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{place}, byte {error.start + 1}: 0x{raw[error.start]:02x} is not UTF-8 ({error.reason}); save the file "
            "as UTF-8 (iconv -f latin1 -t utf-8 converts Latin-1)"
        ) from error


def _jsonl(path: Path) -> Iterator[tuple[Place, Row]]:
    for place, line in read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CorpusError(f"{place}{where}: not JSON: {what}; in {line[:60]!r}") from error
        if not isinstance(row, dict):
            kind = {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(
                type(row), "a number"
            )
            raise CorpusError(f'{place}: {kind}; every line is one JSON object such as {{"text": "..."}}')
        yield place, row


def _parquet(path: Path) -> Iterator[tuple[Place, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    open_corpus(path).close()
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        after = f" after row {number}" if number else ""
        raise CorpusError(f"{path}: not a Parquet file that can be read{after}: {error}") from error


def _csv(path: Path) -> Iterator[tuple[Place, Row]]:
    usual = csv.field_size_limit(4 * MAX_CHARACTERS)  # the usual 131,072 is less than a row may have
    reader = csv.DictReader((line for _, line in _raw_lines(path)), strict=True)
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            surplus, missing = len(row.pop(None, ())), list(row.values()).count(None)
            if surplus or missing:
                raise CorpusError(
                    f"{place}: {len(row) + surplus - missing} fields where the header has {len(row)}; fields that hold "
                    "commas are quoted"
                )
            yield place, row
    except csv.Error as error:
        raise CorpusError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(usual)
