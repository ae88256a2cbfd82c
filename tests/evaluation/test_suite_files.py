"""A suite's result on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from adhere.errors import RunFolderError
from adhere.evaluation.suite_files import SuiteResult, read_suite, suite_path, write_suite
from adhere.records import Measurement

RESULT = SuiteResult(
    "SmolLM2-1.7B",
    "bias",
    (Measurement("refusal_rate", 0.1, 0.0, 0.3, 9, tags={"task": "xstest", "group": "safe"}),),
    ("a note",),
    ({"prompt": "p\nq", "refuses": {"rule": None}},),
    {"limit": "9"},
)


def test_what_is_written_is_read_back_with_its_suite_as_a_tag(tmp_path: Path) -> None:
    path = write_suite(tmp_path, RESULT)
    assert path == suite_path(tmp_path, "bias", "SmolLM2-1.7B")
    read = read_suite(tmp_path, "bias", "SmolLM2-1.7B")
    assert read.find("refusal_rate", group="safe", suite="bias").value == 0.1
    assert (read.notes, read.items, read.settings) == (RESULT.notes, RESULT.items, RESULT.settings)


def test_a_suite_stands_apart_from_plain_evaluations(tmp_path: Path) -> None:
    write_suite(tmp_path, RESULT)
    assert list((tmp_path / "evaluation").glob("*.json")) == []


def test_what_was_not_measured_is_not_found() -> None:
    with pytest.raises(KeyError, match="was not measured"):
        RESULT.find("refusal_rate", group="unsafe")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="evaluate x with --suite bias again"):
        read_suite(tmp_path, "bias", "x")
    write_suite(tmp_path, RESULT).write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged"):
        read_suite(tmp_path, "bias", "SmolLM2-1.7B")
