"""Suites on disk: `evaluation/<suite>/<model>.json` (rows, notes, settings) and beside it `<model>.items.jsonl`.

An item is what one row of the suite's data gave: an output with its verdicts, an answer and whether it was right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adhere.errors import RunFolderError
from adhere.evaluation.evaluation_files import measurement_of
from adhere.files import write_json_atomic, write_text_atomic
from adhere.records import Measurement


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """What a suite measured of one model.

    `notes` are sentences on what was not measured and why, or on what a reader must know of a number.
    """

    model: str
    suite: str
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    items: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str, **tags: str) -> Measurement:
        """The measurement of this name with these tags. Raises KeyError where there is none."""
        for measured in self.measurements:
            if measured.name == name and all(measured.tags.get(key) == value for key, value in tags.items()):
                return measured
        raise KeyError(f"{name} {tags} was not measured; measured: {[(m.name, m.tags) for m in self.measurements]}")


def suite_path(run_folder: Path, suite: str, model: str) -> Path:
    """Where a suite's result of a model is, whether it exists or not."""
    return run_folder / "evaluation" / suite / f"{model}.json"


def write_suite(run_folder: Path, result: SuiteResult) -> Path:
    """Write both files, the one with the numbers last, so that where it is the result is whole.

    Raises:
        RunFolderError: they cannot be written.
    """
    path = suite_path(run_folder, result.suite, result.model)
    lines = [json.dumps(item, ensure_ascii=False) for item in result.items]
    write_text_atomic(path.with_suffix(".items.jsonl"), "".join(f"{line}\n" for line in lines))
    tags = {"suite": result.suite, "model": result.model}
    rows = [{**measured.to_row(), **tags} for measured in result.measurements]
    told = {"model": result.model, "suite": result.suite, "settings": dict(result.settings)}
    write_json_atomic(path, {**told, "notes": list(result.notes), "rows": rows})
    return path


def read_suite(run_folder: Path, suite: str, model: str) -> SuiteResult:
    """Read what `write_suite` wrote.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    path = suite_path(run_folder, suite, model)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        lines = path.with_suffix(".items.jsonl").read_text(encoding="utf-8").split("\n")
        items = tuple(json.loads(line) for line in lines if line)
        rows = tuple(map(measurement_of, told["rows"]))
        return SuiteResult(told["model"], told["suite"], rows, tuple(told["notes"]), items, told["settings"])
    except FileNotFoundError as error:
        raise RunFolderError(f"{error.filename}: missing; evaluate {model} with --suite {suite} again") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"delete it and evaluate {model} with --suite {suite} again"
        raise RunFolderError(f"{path}: damaged ({error}); {again}") from error
