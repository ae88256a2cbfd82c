"""The count of broken things: read from the report that the tests leave, and added up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

REPORT = """<testsuites><testsuite name="pytest">
<testcase name="a"><properties>
<property name="corpora" value="112"/><property name="hypothesis-stats" value="abc="/>
</properties></testcase>
<testcase name="b"><properties><property name="answers" value="30"/></properties></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def broken_input() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("broken_input")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_counts_of_the_tests_are_added_up(broken_input: Any) -> None:
    rows = broken_input.rows_of(REPORT)
    assert [(row["kind"], row["value"]) for row in rows if row["name"] == "tried"] == [
        ("corpora", 112),
        ("answers", 30),
    ]
    assert "| together | 142 | 0 |" in broken_input.table(rows)
