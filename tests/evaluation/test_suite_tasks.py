"""Names of suites, and what values a row may have."""

from __future__ import annotations

import pytest

from adhere.errors import RecipeError
from adhere.evaluation.suite_tasks import SUITES, TASKS, choices, flag, place, safety, suite_names, tasks_of, text


def test_suites_are_named_once_each_in_the_order_given() -> None:
    assert suite_names("bias, utility,bias") == ("bias", "utility")
    assert suite_names(["toxicity"]) == ("toxicity",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("toxicty", "there is no suite 'toxicty'; did you mean toxicity"),
        ("utility,xyz", "there is no suite 'xyz'; suites are toxicity, utility"),
        (" , ", "name a suite"),
    ],
)
def test_an_unknown_suite_is_refused_and_the_nearest_offered(given: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        suite_names(given)


def test_every_task_belongs_to_a_suite() -> None:
    assert {task.suite for task in TASKS.values()} <= set(SUITES)
    assert tasks_of("toxicity") == ["rtp", "toxigen"]
    assert tasks_of("quality") == []


def test_values_are_read_in_the_forms_that_data_sets_have() -> None:
    assert text({"text": "a prompt", "toxicity": 0.1}) == "a prompt"
    assert [flag(value) for value in (0, 1, True, "0", "1", 0.49, 0.5)] == [
        False, True, True, False, True, False, True,
    ]  # fmt: skip
    assert choices(["a", "b"]) == ["a", "b"]
    assert place(2) == 2


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (text, ""), (text, " "), (text, 3), (text, {}), (flag, "yes"), (flag, 2), (flag, -1), (flag, None),
        (choices, ["one"]), (choices, "ab"), (choices, ["a", ""]), (place, -1), (place, True), (place, "0"),
        (safety, "dangerous"), (safety, 1),
    ],
)  # fmt: skip
def test_other_values_are_refused(read: object, value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        read(value)  # type: ignore[operator]
