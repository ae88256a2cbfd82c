"""Everything a report is made from, read from a run folder; what is missing or damaged is left out and said.

A run may be young, stopped by force or evaluated later: no file here is required but one that shows it is a run at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from adhere.errors import RunFolderError
from adhere.records import Measurement

Json = Mapping[str, object]
T = TypeVar("T")

_FIELDS = {"name", "value", "low", "high", "n", "unit"}  # of a row of results; its other keys are tags


@dataclass(frozen=True, slots=True)
class SampleLine:
    """One judged output: a line of `evaluation/<model>.samples.jsonl`."""

    prompt_index: int
    replicate: int
    prompt: str
    output: str
    verdicts: Mapping[str, float | None]  # by constraint
    judge: Mapping[str, float | None]  # by the name of a judge that training never saw
    masked_words: tuple[str, ...] | None  # what to mask; None: let the report find it


@dataclass(frozen=True, slots=True)
class TokenLine:
    """One output as tokens, with R after each: an item of `evaluation/tokens.json`."""

    prompt: str
    tokens: tuple[str, ...]
    satisfaction: tuple[float, ...]
    model: str  # whose output; may be empty
    constraint: str  # whose R; may be empty
    masked_words: tuple[str, ...] | None


@dataclass(slots=True)
class RunFiles:
    """What a run folder holds."""

    folder: Path
    recipe: str = ""
    manifest: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)  # without its rows
    measurements: list[Measurement] = field(default_factory=list)
    log: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    samples: dict[str, list[SampleLine]] = field(default_factory=dict)  # by model
    tokens: list[TokenLine] = field(default_factory=list)
    suites: list[Measurement] = field(default_factory=list)
    suite_notes: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # by suite and model
    unreadable: list[str] = field(default_factory=list)  # a sentence for each thing that could not be read


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        RunFolderError: it does not exist, or nothing in it shows that it is a run.
    """
    if not folder.is_dir():
        raise RunFolderError(f"there is no run folder {str(folder)!r}: give one that `adhere train` wrote")
    if not any((folder / name).exists() for name in ("recipe.yaml", "manifest.json", "summary.json", "evaluation")):
        raise RunFolderError(
            f"{str(folder)!r} holds no run: none of recipe.yaml, manifest.json, summary.json, evaluation/ is in it"
        )
    run = RunFiles(folder)
    run.recipe = _text(run, folder / "recipe.yaml")
    run.manifest = _object(run, folder / "manifest.json")
    summary = dict(_object(run, folder / "summary.json"))
    run.measurements = _rows(run, "summary.json", summary.pop("rows", []))
    run.summary = summary
    if not run.measurements:
        for path in sorted((folder / "evaluation").glob("*.json")):
            if path.name != "tokens.json":
                run.measurements += _rows(run, path.name, _json(run, path), model=path.stem)
    run.log = _log(run)
    run.events = _lines(run, folder / "events.jsonl", dict)
    for path in sorted((folder / "evaluation").glob("*.samples.jsonl")):
        run.samples[path.name.removesuffix(".samples.jsonl")] = _lines(run, path, _sample)
    for path in sorted((folder / "evaluation").glob("*/*.json")):
        told = _object(run, path)
        run.suites += _rows(run, f"{path.parent.name}/{path.name}", told, model=path.stem)
        said = told.get("notes")
        if isinstance(said, list) and said:
            run.suite_notes[path.parent.name, path.stem] = [str(note) for note in said]
    run.tokens = _items(run, "tokens.json", _json(run, folder / "evaluation" / "tokens.json"), _token_line)
    return run


def measurement(row: Json, model: str = "") -> Measurement:
    """A row of a results file as a record; keys that are no field of it become tags.

    Raises:
        ValueError: it has no name, or its value is not a finite number.
    """
    tags = {key: str(value) for key, value in row.items() if key not in _FIELDS and value is not None}
    if model:
        tags.setdefault("model", model)
    value, n = number(row.get("value")), number(row.get("n"))
    if value is None or not isinstance(row.get("name"), str):
        raise ValueError(f"a row needs a name and a finite value, got {row!r}")
    low, high = number(row.get("low")), number(row.get("high"))
    return Measurement(str(row["name"]), value, low, high, int(n or 0), str(row.get("unit") or ""), tags)


def number(value: object) -> float | None:
    """The value as a finite float, or None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _log(run: RunFiles) -> list[Json]:
    """The trainer's log; of a run that was stopped, the one in its last checkpoint."""
    found = _json(run, run.folder / "log_history.json")
    if found is None:
        states = [*run.folder.glob("checkpoint-*/trainer_state.json")]
        states.sort(key=lambda path: int("0" + "".join(filter(str.isdigit, path.parent.name))))
        found = _object(run, states[-1]).get("log_history") if states else None
    return _items(run, "log_history.json", found, dict)


def _rows(run: RunFiles, name: str, rows: object, model: str = "") -> list[Measurement]:
    if isinstance(rows, dict):
        rows = rows.get("rows")
    return _items(run, name, rows, lambda row: measurement(row, model))


def _sample(line: Json) -> SampleLine:
    index, replicate = line["prompt_index"], line.get("replicate", 0)
    if not isinstance(index, int) or not isinstance(replicate, int):
        raise ValueError("prompt_index and replicate are whole numbers")
    verdicts = {name: _score(verdict) for name, verdict in _mapping(line.get("verdicts")).items()}
    judge = {name: _score(score) for name, score in _mapping(line.get("judge")).items()}
    prompt, output = str(line["prompt"]), str(line["output"])
    return SampleLine(index, replicate, prompt, output, verdicts, judge, _masked_words(line))


def _token_line(item: Json) -> TokenLine:
    tokens, satisfaction = item["tokens"], item["satisfaction"]
    if not isinstance(tokens, list) or not isinstance(satisfaction, list) or len(tokens) != len(satisfaction):
        raise ValueError("tokens and satisfaction are lists of one length")
    values = [number(value) for value in satisfaction]
    if None in values:
        raise ValueError("satisfaction is a list of numbers")
    kept = tuple(min(1.0, max(0.0, value)) for value in values if value is not None)
    prompt, model, constraint = (str(item.get(key, "")) for key in ("prompt", "model", "constraint"))
    return TokenLine(prompt, tuple(map(str, tokens)), kept, model, constraint, _masked_words(item))


def _masked_words(item: Json) -> tuple[str, ...] | None:
    words = item.get("masked_words")
    return tuple(map(str, words)) if isinstance(words, list) else None


def _score(verdict: object) -> float | None:
    return number(verdict.get("score") if isinstance(verdict, dict) else verdict)


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(run: RunFiles, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        run.unreadable.append(f"{path.name} could not be read ({error.strerror}).")
        return ""


def _json(run: RunFiles, path: Path) -> object:
    text = _text(run, path)
    try:
        return json.loads(text) if text else None
    except ValueError:
        run.unreadable.append(f"{path.name} is not valid JSON and was left out.")
        return None


def _object(run: RunFiles, path: Path) -> Json:
    return _mapping(_json(run, path))


def _items(run: RunFiles, name: str, items: object, read: Callable[[Json], T]) -> list[T]:
    return _read_all(run, name, iter(items) if isinstance(items, list) else iter(()), read)


def _lines(run: RunFiles, path: Path, read: Callable[[Json], T]) -> list[T]:
    def parsed() -> Iterator[object]:
        for line in _text(run, path).split("\n"):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError:  # a line torn by a stop, for one
                    yield None

    return _read_all(run, path.name, parsed(), read)


def _read_all(run: RunFiles, name: str, items: Iterator[object], read: Callable[[Json], T]) -> list[T]:
    good: list[T] = []
    bad = 0
    for item in items:
        try:
            if not isinstance(item, dict):
                raise ValueError("not a JSON object")
            good.append(read(item))
        except (KeyError, ValueError):
            bad += 1
    if bad:
        run.unreadable.append(f"{bad} of {bad + len(good)} entries of {name} could not be read and were left out.")
    return good
