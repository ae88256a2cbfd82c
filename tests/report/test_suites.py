"""Suites as tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from adhere.evaluation.suite_files import SuiteResult, write_suite
from adhere.records import Measurement
from adhere.report.html import render
from adhere.report.run_files import read_run
from adhere.report.suites import suite_tables


def _accuracy(value: float, model: str, **tags: str) -> Measurement:
    tags = {"suite": "utility", "model": model, "task": "piqa", "metric": "acc", "shots": "0", **tags}
    return Measurement("accuracy", value, value - 0.1, value + 0.1, 100, tags=tags)


def test_a_row_is_a_measure_and_a_column_a_model() -> None:
    (shown,) = suite_tables([_accuracy(0.62, "sft"), _accuracy(0.6, "before")], {})
    assert [column.label for column in shown.table.columns] == ["before fine-tuning", "plain fine-tuning"]
    ((label, before, plain),) = shown.table.plain()[1:]
    assert label == "piqa: accuracy (acc, n = 100)"
    assert (before, plain) == ("60.0 % [50.0 to 70.0]", "62.0 % [52.0 to 72.0]")


def test_models_measured_with_other_limits_do_not_stand_in_one_row() -> None:
    (shown,) = suite_tables([_accuracy(0.62, "sft", limit="100"), _accuracy(0.6, "before", limit="20")], {})
    assert [[str(cell) for cell in row.cells].count("—") for row in shown.table.rows] == [1, 1]


def test_models_measured_on_other_rows_stand_apart_and_are_told_so() -> None:
    (shown,) = suite_tables([_accuracy(0.62, "sft", rows="aa"), _accuracy(0.6, "before", rows="bb")], {})
    labels = [row.label for row in shown.table.rows]
    assert labels == [f"piqa: accuracy (acc, n = 100), on rows {rows}" for rows in ("aa", "bb")]


def test_examples_referees_and_judges_are_named() -> None:
    told = [
        _accuracy(0.3, "sft", task="mmlu", shots="5"),
        Measurement(
            "win_rate", 0.5, n=9, tags={"suite": "utility", "model": "sft", "referee": "big", "against": "before"}
        ),
        Measurement("emt", 0.5, n=9, tags={"suite": "utility", "model": "sft", "constraint": "rule", "k": "2"}),
    ]
    (shown,) = suite_tables(told, {})
    labels = [row.label for row in shown.table.rows]
    assert labels[0] == "mmlu: accuracy (acc, 5 examples, n = 100)"
    assert labels[1] == "win rate (by big, against before, n = 9)"
    assert labels[2] == "expected maximum toxicity (by rule, trained against, k = 2, n = 9)"


def test_what_got_no_verdict_is_marked_in_the_table() -> None:
    measured = _accuracy(0.5, "sft", no_verdict="3")
    (shown,) = suite_tables([measured], {})
    assert shown.table.rows[0].cells[0].interval == "40.0 to 60.0; 3 without a verdict"


def test_many_groups_have_a_table_of_their_own_and_few_have_not() -> None:
    groups = [_accuracy(0.5, "sft", group=f"g{n}") for n in range(6)]
    (shown,) = suite_tables([_accuracy(0.6, "sft"), *groups], {})
    assert shown.by_group is not None
    assert (len(shown.table.rows), len(shown.by_group.rows)) == (1, 6)
    (few,) = suite_tables([_accuracy(0.6, "sft"), *groups[:2]], {})
    assert few.by_group is None
    assert len(few.table.rows) == 3


def test_a_note_is_told_once_with_the_models_it_is_about_and_suites_come_in_their_order() -> None:
    notes = {("utility", "sft"): ["not measured"], ("utility", "before"): ["not measured"], ("bias", "sft"): ["x"]}
    toxicity = Measurement("emt", 0.1, tags={"suite": "toxicity", "model": "sft"})
    shown = suite_tables([_accuracy(0.6, "sft"), toxicity], notes)
    assert [each.suite for each in shown] == ["toxicity", "utility", "bias"]
    assert shown[1].notes == ("plain fine-tuning, before fine-tuning: not measured",)
    assert shown[2].table.rows == ()


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    for model in ("before", "sft"):
        hostile = "<script>alert(1)</script>"
        result = SuiteResult(model, "utility", (_accuracy(0.6, model),), (hostile,), ({"prompt": "p"},), {})
        write_suite(tmp_path, result)
    return tmp_path


def test_a_report_shows_the_suites_of_a_run(measured: Path) -> None:
    run = read_run(measured)
    assert run.measurements == []
    assert run.suite_notes["utility", "sft"] == ["<script>alert(1)</script>"]
    page = render(run)
    assert 'id="suites"' in page
    assert "piqa: accuracy (acc, n = 100)" in page
    assert "<script>alert(1)" not in page


def test_a_damaged_file_of_a_suite_is_left_out_and_said(measured: Path) -> None:
    (measured / "evaluation" / "utility" / "sft.json").write_text("{", encoding="utf-8")
    run = read_run(measured)
    assert {m.tags["model"] for m in run.suites} == {"before"}
    assert run.unreadable == ["sft.json is not valid JSON and was left out."]
