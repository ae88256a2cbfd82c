"""Evaluations on disk: `evaluation/<model>.json` (rows and losses) and `evaluation/<model>.samples.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from adhere.errors import RunFolderError
from adhere.files import write_json_atomic, write_text_atomic
from adhere.records import EvaluationResult, LabelledSample, Measurement, Sample, Verdict

_FIELDS = {field.name for field in fields(Measurement)} - {"tags"}


def evaluation_path(run_folder: Path, model: str) -> Path:
    """Where the evaluation of a model is, whether it exists or not."""
    return run_folder / "evaluation" / f"{model}.json"


def write_evaluation(run_folder: Path, result: EvaluationResult) -> Path:
    """Write both files; the one with the numbers last, so that where it is the evaluation is whole.

    Raises:
        RunFolderError: they cannot be written.
    """
    path = evaluation_path(run_folder, result.model)
    judges = {m.tags["judge"] for m in result.measurements if m.name == "judge_violation_rate"}
    lines = [json.dumps(_sample_line(labelled, judges), ensure_ascii=False) for labelled in result.completions]
    write_text_atomic(path.with_suffix(".samples.jsonl"), "".join(f"{line}\n" for line in lines))
    rows = [{**measurement.to_row(), "model": result.model} for measurement in result.measurements]
    told = {"model": result.model, "rows": rows, "losses": result.losses, "conditions": result.conditions}
    write_json_atomic(path, told)
    return path


def read_evaluation(run_folder: Path, model: str) -> EvaluationResult:
    """Read what `write_evaluation` wrote.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    path = evaluation_path(run_folder, model)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        lines = path.with_suffix(".samples.jsonl").read_text(encoding="utf-8").split("\n")
        completions = tuple(_labelled(json.loads(line)) for line in lines if line)
        losses = {name: tuple((float(n), int(t)) for n, t in pairs) for name, pairs in told["losses"].items()}
        conditions = {name: str(value) for name, value in told.get("conditions", {}).items()}
        rows = tuple(map(measurement_of, told["rows"]))
        return EvaluationResult(told["model"], rows, completions, losses, conditions)
    except FileNotFoundError as error:
        raise RunFolderError(f"{error.filename}: missing; evaluate {model} again") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: damaged ({error}); delete it and evaluate {model} again") from error


def measurement_of(row: Mapping[str, Any]) -> Measurement:
    """A row of a results file as a record; the tag `model` is left to whoever holds the row."""
    tags = {key: str(value) for key, value in row.items() if key not in _FIELDS and key != "model"}
    return Measurement(**{key: value for key, value in row.items() if key in _FIELDS}, tags=tags)


def _sample_line(labelled: LabelledSample, judges: set[str]) -> dict[str, Any]:
    scores = {name: verdict.score for name, verdict in labelled.verdicts.items()}
    return {
        **asdict(labelled.sample),
        "verdicts": {name: score for name, score in scores.items() if name not in judges},
        "judge": {name: score for name, score in scores.items() if name in judges},
    }


def _labelled(line: dict[str, Any]) -> LabelledSample:
    scores = {**line.pop("verdicts"), **line.pop("judge")}
    ids = {name: tuple(line[name]) for name in ("prompt_ids", "output_ids")}
    return LabelledSample(Sample(**{**line, **ids}), {name: Verdict(score) for name, score in scores.items()})
