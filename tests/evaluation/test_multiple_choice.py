"""Rows of ours as the harness is given them."""

from __future__ import annotations

from typing import Any

import pytest

from adhere.errors import CorpusError
from adhere.evaluation.multiple_choice import CHOICE_TASKS, COMMONSENSE, task_config
from adhere.evaluation.suite_tasks import tasks_of

ROW = {"question": "Which is a cat?", "choices": ["a cow", "a cat"], "label": 1}


def test_every_utility_task_has_a_way_to_be_asked() -> None:
    assert set(CHOICE_TASKS) == set(tasks_of("utility"))
    assert set(COMMONSENSE) == set(CHOICE_TASKS) - {"mmlu"}


@pytest.mark.parametrize(
    ("task", "question"),
    [
        ("piqa", "Question: Which is a cat?\nAnswer:"), ("arc_easy", "Question: Which is a cat?\nAnswer:"),
        ("boolq", "Which is a cat?\nAnswer:"), ("siqa", "Q: Which is a cat?\nA:"),
    ],
)  # fmt: skip
def test_choices_are_scored_after_the_question(task: str, question: str) -> None:
    config = task_config(task, [ROW])
    assert config["doc_to_text"](ROW) == question
    assert config["doc_to_choice"](ROW) == ["a cow", "a cat"]
    assert config["doc_to_target"](ROW) == 1
    assert config["num_fewshot"] == 0


def test_winogrande_is_scored_by_its_contexts() -> None:
    row = {"contexts": ["The cat", "The dog"], "continuation": "purred.", "label": 0}
    config = task_config("winogrande", [row])
    assert config["doc_to_text"](row) == 0  # a number tells the harness so
    assert config["doc_to_choice"](row) == ["The cat", "The dog"]
    assert config["doc_to_target"](row) == "purred."


def test_mmlu_is_asked_by_letters_after_five_solved_questions_that_are_not_scored() -> None:
    rows: list[dict[str, Any]] = [{**ROW, "question": f"{n}?"} for n in range(8)]
    config = task_config("mmlu", rows)
    assert config["doc_to_text"](rows[0]) == "0?\nA. a cow\nB. a cat\nAnswer:"
    assert config["doc_to_choice"](rows[0]) == ["A", "B"]
    splits = config["custom_dataset"]()
    assert [row["question"] for row in splits["test"]] == ["0?", "1?", "2?"]
    assert [row["question"] for row in splits["dev"]] == ["3?", "4?", "5?", "6?", "7?"]
    assert config["num_fewshot"] == 5


def test_too_few_rows_or_too_many_choices_are_refused() -> None:
    with pytest.raises(CorpusError, match="more than 5 rows; got 5"):
        task_config("mmlu", [ROW] * 5)
    with pytest.raises(CorpusError, match="11 choices; at most 10"):
        task_config("mmlu", [{**ROW, "choices": [str(n) for n in range(11)]}] * 6)
