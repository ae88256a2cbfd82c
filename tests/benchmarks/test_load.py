"""The load benchmark on a few outputs: every case runs, all of its calls are counted, and a second labelling makes none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("load")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_case_runs_and_calls_are_counted(load: ModuleType, tmp_path: Path) -> None:
    rows = load.run(tmp_path, 50)
    found = {(row["case"], row["from_cache"], row["name"]): row["value"] for row in rows}
    endpoint, moderation = (case.name for case in load.CASES)
    assert found[endpoint, False, "calls_made"] == 50
    assert (found[endpoint, True, "calls_made"], found[endpoint, True, "calls_saved"]) == (0, 50)
    assert found[moderation, False, "calls_made"] == 3  # of four texts each
    assert 0 < found[endpoint, False, "share_of_allowed"] <= 1
    assert 0.5 < found[endpoint, False, "memory_last_quarter_over_first"] < 10
    assert f"| {endpoint}, all from the cache |" in load.table(rows)
    assert not {(endpoint, True, name) for name in ("share_of_allowed", "memory_last_quarter_over_first")} & set(found)
