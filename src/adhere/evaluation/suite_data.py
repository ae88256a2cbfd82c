"""Where the rows of a suite come from: files of a folder by their names, one named file, or a data set of the hub.

Every row is checked before a model is loaded, so that a missing column costs seconds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from adhere.data.reading import SUFFIXES, read_rows
from adhere.data.rows import Place
from adhere.errors import CorpusError, RecipeError
from adhere.evaluation.suite_tasks import TASKS, Task, nearest

Row = dict[str, Any]

_SHUFFLED = 10_000  # rows of the hub that are shuffled at a time, where not all of them are read


@dataclass(frozen=True, slots=True)
class Sources:
    """What a user said of where rows are: a folder with a file for each task, and tasks by their names."""

    folder: Path | None = None
    named: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, name: str) -> str | None:
        """The file or hub data set of a task; None where it has none.

        What is named comes first, then the folder; the hub's own only where there is no folder.

        Raises:
            CorpusError: two files of the folder could be meant.
        """
        if name in self.named:
            return self.named[name]
        if self.folder is None:
            return TASKS[name].hub or None
        for pattern in TASKS[name].files:
            found = sorted(path for path in self.folder.glob(pattern) if path.suffix.lower() in SUFFIXES)
            if len(found) > 1:
                listed = ", ".join(path.name for path in found)
                raise CorpusError(f"{self.folder}: which is {name}: {listed}? Say it: --data {name}=FILE")
            if found:
                return str(found[0])
        return None

    def why_missing(self, name: str) -> str:
        """Why a task has no rows, as a sentence."""
        files = " or ".join(f"{pattern}.jsonl" for pattern in TASKS[name].files)
        if self.folder is None:
            return f"{name} was not measured: the hub has no data set for it; give a file, --data {name}=FILE"
        return f"{name} was not measured: {self.folder} has no {files} (or give --data {name}=FILE)"


def read_sources(given: Sequence[str]) -> Sources:
    """What `--data` says: a folder, or TASK=FILE or TASK=HUB-ID, any number of them.

    Raises:
        RecipeError: two folders, an unknown task (the nearest is offered). CorpusError: no such folder.
    """
    folder: Path | None = None
    named: dict[str, str] = {}
    for each in given:
        name, equals, place = each.partition("=")
        if equals and not Path(each).is_dir():
            if name not in TASKS:
                raise RecipeError(
                    f"--data {each!r}: there is no task {name!r}{nearest(name, list(TASKS))}; tasks are "
                    f"{', '.join(TASKS)}"
                )
            named[name] = place
        elif folder is not None:
            raise RecipeError(f"--data names two folders, {str(folder)!r} and {each!r}; give one")
        else:
            folder = Path(each)
    if folder is not None and not folder.is_dir():
        raise CorpusError(f"--data {str(folder)!r}: no such folder; give a folder of suite files, or TASK=FILE")
    return Sources(folder, named)


def read_task(name: str, place: str, limit: int | None = None, seed: int = 0) -> list[Row]:
    """The rows of a task, checked.

    Args:
        name: of the task.
        place: a file (.jsonl, .parquet, .csv), or a hub data set as `id`, `id:configuration`, `id:configuration:split`.
        limit: how many; drawn evenly over the task's strata, the same rows for the same seed.

    Raises:
        CorpusError: it cannot be read, has no rows, or a row lacks a column or has a value that cannot be.
    """
    task = TASKS[name]
    is_file = Path(place).suffix.lower() in SUFFIXES or Path(place).exists()
    found = read_rows(Path(place)) if is_file else _hub_rows(name, place, limit, seed)
    rows = [_checked(name, task, where, row) for where, row in found]
    if not rows:
        raise CorpusError(f"{place}: no rows in it, so {name} cannot be measured")
    if task.differ is not None:
        one, other = task.differ
        different = [row for row in rows if row[one] != row[other]]
        if not different:
            names = " and ".join(task.columns[column].names[0] for column in task.differ)
            raise CorpusError(f"{place}: {names} are equal in all {len(rows)} rows, so {name} has nothing to compare")
        rows = different
    return subset(rows, limit, task.strata, seed)


def subset(rows: Sequence[Row], limit: int | None, strata: Sequence[str] = (), seed: int = 0) -> list[Row]:
    """At most `limit` rows, in their order, drawn at random and as evenly over the strata as there are rows."""
    if limit is None or limit >= len(rows):
        return list(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    groups: dict[tuple[object, ...], list[int]] = {}
    for number in order:
        groups.setdefault(tuple(rows[number].get(column) for column in strata), []).append(number)
    # How many of its own group come before a row decides its turn.
    turn = {number: place for group in groups.values() for place, number in enumerate(group)}
    chosen = sorted(order, key=lambda number: turn[number])[:limit]
    return [rows[number] for number in sorted(chosen)]


def digest(rows: Sequence[object]) -> str:
    """A short name for what was measured on: two numbers stand side by side only where it is the same."""
    return sha256(json.dumps(list(rows), sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:8]


def _checked(name: str, task: Task, place: Place, row: Mapping[str, object]) -> Row:
    found: Row = {}
    for column, wanted in task.columns.items():
        given = next((each for each in wanted.names if row.get(each) is not None), None)
        if given is None:
            if not wanted.required:
                continue
            needed = ", ".join(" or ".join(each.names) for each in task.columns.values() if each.required)
            raise CorpusError(
                f"{place}: no column {' or '.join(wanted.names)}: a row of {name} has {needed}; this one has "
                f"{', '.join(map(str, row)) or 'nothing'}"
            )
        try:
            found[column] = wanted.read(row[given])
        except ValueError as error:
            raise CorpusError(f"{place}: `{given}` {error}, got {str(row[given])[:60]!r}") from error
    among = found.get("choices") or found.get("contexts")
    if among is not None and found["label"] >= len(among):
        raise CorpusError(f"{place}: label {found['label']} of {len(among)} choices, which are counted from 0")
    return found


def _hub_rows(name: str, place: str, limit: int | None, seed: int) -> Iterator[tuple[Place, Mapping[str, object]]]:
    from datasets import get_dataset_split_names, load_dataset

    identity, configuration, split = ([*place.split(":"), "", ""])[:3]
    try:
        split = split or get_dataset_split_names(identity, configuration or None)[0]
        rows: Iterable[Mapping[str, object]] = load_dataset(
            identity, configuration or None, split=split, streaming=limit is not None
        )
        if limit is not None:
            # More than asked for, so that every stratum is among them.
            rows = rows.shuffle(seed=seed, buffer_size=_SHUFFLED).take(max(20 * limit, 1000))  # type: ignore[attr-defined]
        yield from ((f"{place}, row {number}", row) for number, row in enumerate(rows, 1))
    except CorpusError:
        raise
    except Exception as error:  # the hub's client raises whatever its transport does
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CorpusError(
            f"{place} cannot be loaded from the hub: {reason.strip()}. Give a file instead: --data {name}=FILE "
            f"({', '.join(SUFFIXES)}), or a folder of such files"
        ) from error
