"""`adhere label`: what an oracle says of the texts of a file, which may be larger than the memory.

Rows are read, judged and put on disk a few at a time, into a journal beside the file that is asked for. The journal takes
that file's place when the last row is judged. Killed, the same call goes on where the journal ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from adhere.data.reading import read_rows
from adhere.data.rows import check_unicode
from adhere.errors import CorpusError, RunFolderError
from adhere.files import append_whole, cannot_write, cut_torn_line
from adhere.oracles.again import LATER_PASSES
from adhere.oracles.base import Oracle, judge, violates
from adhere.oracles.config import OracleConfig, build_oracle
from adhere.oracles.version import version_of
from adhere.recipe.progress import Progress, silent

SECONDS_AT_ONCE = 8.0
"""How long the rows between two writes should take: a kill costs no more, and a service is kept busy meanwhile."""
FEWEST, MOST = 64, 8192

Row = dict[str, Any]


@dataclass(slots=True)
class Labelled:
    """What was said of the rows of a file: of `rows`, `judged` got a verdict, and `violations` of these violate. `trouble`
    says why there are rows without one, as far as the oracle knows."""

    rows: int = 0
    judged: int = 0
    violations: int = 0
    trouble: str = ""

    def count(self, score: float | None) -> None:
        """Count one more row."""
        self.rows += 1
        self.judged += score is not None
        self.violations += score is not None and violates(score)


def label_file(samples: Path, oracle: OracleConfig, out: Path, *, progress: Progress | None = None) -> Labelled:
    """Judge the outputs of a file (column `output`, else `completion` or `text`); write its rows with their `score`.

    Args:
        samples: such as `sample_run` wrote, JSONL, Parquet or CSV; other columns are kept.
        oracle: who judges.
        out: JSONL file, the same rows with `score` (null: no verdict) and `oracle`. It is written when all are judged.
        progress: told of every few rows.

    Returns:
        the counts. Missing verdicts were asked for again, after all others.

    Raises:
        CorpusError: the file cannot be read, or a row has no output; before anything is judged.
        OracleError: the oracle broke its contract. RunFolderError: `out` cannot be written, or another process writes it.
    """
    tell = progress or silent
    if out.is_dir():
        raise RunFolderError(f"{out} is a folder; give the file that the labels go to (--out)")
    total = _checked(samples, tell)
    judging = build_oracle(oracle)
    journal = _journal(samples, judging, out)
    with _alone(out):
        done = _resumed(journal, samples, judging)
        _judge_rest(journal, samples, judging, done, total, tell)
        counts = _counted(journal)
        for _ in range(LATER_PASSES):
            if counts.judged < counts.rows:
                _ask_again(journal, judging, total, tell)
                counts = _counted(journal)
        counts.trouble = judging.trouble()
        try:
            os.replace(journal, out)
        except OSError as error:
            raise cannot_write(out, error) from error
    return counts


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Let no second process write the same file meanwhile."""
    from filelock import FileLock, Timeout

    path = out.with_name(f".{out.name}.lock")
    lock = FileLock(path)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"{out} is being written by another process: wait for it, or choose another file (--out)"
        ) from None
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()


def _checked(samples: Path, tell: Progress) -> int:
    """How many rows there are; all of them can be judged."""
    count = 0
    for place, row in read_rows(samples):
        _text(place, dict(row))
        count += 1
        if count % MOST == 0:
            tell("reading", count, 0)
    if not count:
        raise CorpusError(f"{samples}: no rows in it")
    return count


def _journal(samples: Path, oracle: Oracle, out: Path) -> Path:
    identity = version_of(samples=str(samples.absolute()), oracle=[oracle.name, oracle.version])
    return out.with_name(f".{out.name}.{identity}.part")


def _resumed(journal: Path, samples: Path, oracle: Oracle) -> int:
    """How many of the first rows the journal holds, as they stand in the file; what comes after those is cut off."""
    if not journal.exists():
        return 0
    cut_torn_line(journal)
    kept, size = 0, 0
    with journal.open("rb") as stream, closing(_rows(samples)) as rows:
        for line, (_, row) in zip(stream, rows, strict=False):
            try:
                score = json.loads(line)["score"]
            except (ValueError, KeyError, TypeError):
                break
            if _line(row, score, oracle) != line:
                break
            kept, size = kept + 1, size + len(line)
    try:
        os.truncate(journal, size)
    except OSError as error:
        raise cannot_write(journal, error) from error
    return kept


def _judge_rest(journal: Path, samples: Path, oracle: Oracle, done: int, total: int, tell: Progress) -> None:
    size = FEWEST
    with closing(_rows(samples)) as rows:
        next(islice(rows, done, done), None)  # what the journal has
        tell("judging", done, total)
        while chunk := list(islice(rows, size)):
            start = time.monotonic()
            scores = judge(oracle, [_prompt(row) for _, row in chunk], [_text(*each) for each in chunk])
            lines = [_line(row, score, oracle) for (_, row), score in zip(chunk, scores, strict=True)]
            append_whole(journal, b"".join(lines))
            done += len(chunk)
            tell("judging", done, total)
            size = _next_size(size, time.monotonic() - start)


def _next_size(size: int, seconds: float) -> int:
    """So many rows that they take `SECONDS_AT_ONCE`, but at most four times as many as before."""
    wanted = size * SECONDS_AT_ONCE / max(seconds, 1e-9)
    return int(min(max(wanted, FEWEST), 4 * size, MOST))


def _counted(journal: Path) -> Labelled:
    counts = Labelled()
    for row in _lines(journal):
        counts.count(row["score"])
    return counts


def _ask_again(journal: Path, oracle: Oracle, total: int, tell: Progress) -> None:
    """Ask once more about the rows without a verdict."""
    better = journal.with_suffix(".again")
    with suppress(FileNotFoundError):
        better.unlink()
    done, rows = 0, _lines(journal)
    while chunk := list(islice(rows, MOST)):
        open_ = [row for row in chunk if row["score"] is None]
        if open_:
            said = judge(oracle, [_prompt(row) for row in open_], [_text("", row) for row in open_])
            for row, score in zip(open_, said, strict=True):
                row["score"] = score
        append_whole(better, b"".join(_line(row, row["score"], oracle) for row in chunk))
        done += len(chunk)
        tell("asking again", done, total)
    os.replace(better, journal)


def _rows(samples: Path) -> Generator[tuple[str, Row], None, None]:
    for place, row in read_rows(samples):
        yield place, dict(row)


def _lines(journal: Path) -> Iterator[Row]:
    with journal.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


def _line(row: Row, score: float | None, oracle: Oracle) -> bytes:
    full = {**row, "score": score, "oracle": oracle.name}
    try:
        return json.dumps(full, ensure_ascii=False, default=str).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, in a column that is not judged
        return json.dumps(full, default=str).encode() + b"\n"


def _prompt(row: Row) -> str:
    return str(row.get("prompt") or "")


def _text(place: str, row: Row) -> str:
    for column in ("output", "completion", "text"):
        if isinstance(text := row.get(column), str):
            check_unicode(place, text)
            return text
    raise CorpusError(f"{place}: no output to judge: a row has a string `output`, `completion` or `text`")
