"""A run states what it has cost, once for every piece of work, however often it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adhere.costs import COSTS, JOURNAL, Costs, Ledger, read_costs
from adhere.errors import RunFolderError


def test_costs_of_all_work_are_added(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    ledger.record("samples 0", generated_outputs=2, generated_tokens=9)
    ledger.record("samples 1", generated_outputs=3, generated_tokens=1)
    ledger.record("sft step 1", optimizer_steps=1, train_seconds=0.5)
    assert ledger.total() == Costs(generated_outputs=5, generated_tokens=10, optimizer_steps=1, train_seconds=0.5)


def test_work_that_is_done_again_counts_once_and_as_it_was_last(tmp_path: Path) -> None:
    Ledger(tmp_path).record("labels 0", oracle_calls=5, no_verdict=5)
    Ledger(tmp_path).record("labels 0", oracle_calls=4)
    assert Ledger(tmp_path).total() == Costs(oracle_calls=4)


def test_a_line_that_a_killed_process_left_torn_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    Ledger(tmp_path).record("a", oracle_calls=1)
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b'{"work": "b", "oracle_ca')
    assert Ledger(tmp_path).total() == Costs(oracle_calls=1)
    Ledger(tmp_path).record("c", oracle_calls=2)
    assert Ledger(tmp_path).total() == Costs(oracle_calls=3)


def test_a_line_that_is_no_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('[1]\n{"no": 1}\n{"work": "a", "oracle_calls": 1}\nnonsense\n', encoding="utf-8")
    assert Ledger(tmp_path).total() == Costs(oracle_calls=1)


def test_what_is_no_cost_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'orakle_calls' is no cost; costs are .*generated_outputs, generated_tokens"):
        Ledger(tmp_path).record("a", orakle_calls=1)


def test_a_block_that_comes_again_shorter_keeps_its_longest_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 5.0, 10.0, 11.0, 20.0, 28.0])
    monkeypatch.setattr("adhere.costs.time.monotonic", lambda: next(now))
    for expected in (5.0, 5.0, 8.0):
        with Ledger(tmp_path).timed("pairs"):
            pass
        assert Ledger(tmp_path).total().train_seconds == expected


def test_the_totals_are_written_whole_and_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record("a", trained_tokens=7, train_seconds=1.25)
    assert ledger.write() == read_costs(tmp_path) == Costs(trained_tokens=7, train_seconds=1.25)
    assert set(json.loads((tmp_path / COSTS).read_text(encoding="utf-8"))) == set(Costs.__slots__)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"oracle_calls": {}}x'])
def test_costs_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(RunFolderError, match=r"does not say what it cost \(costs.json is missing\)"):
        read_costs(tmp_path)
    (tmp_path / COSTS).write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"costs.json is damaged"):
        read_costs(tmp_path)


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(RunFolderError, match="cannot"):
        Ledger(tmp_path).record("a", oracle_calls=1)
