"""Multiple-choice questions as tasks of lm-evaluation-harness, from rows of ours or by the harness's own names.

Prompts and scoring are those under which these sets are reported: the likelihood of each choice after the question; of
Winogrande the likelihood of one continuation after each of two contexts; of MMLU the likelihood of a letter after the
question with its lettered choices, with five solved questions before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adhere.errors import CorpusError
from adhere.evaluation.suite_data import Row

LETTERS = "ABCDEFGHIJ"
MMLU_SHOTS = 5


@dataclass(frozen=True, slots=True)
class ChoiceTask:
    """How a set is asked and reported.

    Attributes:
        harness: its name in the harness.
        metric: what the field reports: `acc`, or `acc_norm` (likelihood per byte of the choice).
        question: the text before the choices.
        shots: solved questions before each.
    """

    harness: str
    metric: str
    question: Callable[[Row], str]
    shots: int = 0


def _lettered(row: Row) -> str:
    choices = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False))
    return "\n".join([row["question"].strip(), *choices, "Answer:"])


CHOICE_TASKS = {
    "piqa": ChoiceTask("piqa", "acc_norm", lambda row: f"Question: {row['question']}\nAnswer:"),
    "boolq": ChoiceTask("boolq", "acc", lambda row: f"{row['question']}\nAnswer:"),
    "arc_easy": ChoiceTask("arc_easy", "acc_norm", lambda row: f"Question: {row['question']}\nAnswer:"),
    "winogrande": ChoiceTask("winogrande", "acc", lambda row: ""),
    "siqa": ChoiceTask("social_iqa", "acc", lambda row: f"Q: {row['question']}\nA:"),
    "mmlu": ChoiceTask("mmlu", "acc", _lettered, MMLU_SHOTS),
}

COMMONSENSE = ("piqa", "boolq", "arc_easy", "winogrande", "siqa")


def task_config(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The rows of a set as a task configuration of the harness.

    The solved questions that stand before others are the last rows, which are then not scored themselves.

    Raises:
        CorpusError: too few rows to leave any to score, or more choices than there are letters.
    """
    from datasets import Dataset

    task = CHOICE_TASKS[name]
    if len(rows) <= task.shots:
        raise CorpusError(
            f"{name} is asked with {task.shots} solved questions before each, so it needs more than {task.shots} rows; "
            f"got {len(rows)} (a higher --limit, or a longer file)"
        )
    scored = list(rows[: len(rows) - task.shots])
    splits = {"test": Dataset.from_list(scored), "dev": Dataset.from_list(list(rows[len(scored) :]) or scored[:1])}
    config: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: splits,
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": task.shots,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in _metrics(name)
        ],
    }
    if name == "winogrande":
        return {**config, **_by_contexts()}
    if task.shots:
        config |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
    if name != "mmlu":
        choices: Callable[[Row], list[str]] = lambda row: list(row["choices"])  # noqa: E731
    else:
        most = max(len(row["choices"]) for row in rows)
        if most > len(LETTERS):
            raise CorpusError(f"{name}: a question has {most} choices; at most {len(LETTERS)} can be lettered")
        choices = lambda row: list(LETTERS[: len(row["choices"])])  # noqa: E731
    return {**config, "doc_to_text": task.question, "doc_to_choice": choices, "doc_to_target": lambda row: row["label"]}


def _by_contexts() -> dict[str, Any]:
    """A whole number as text tells the harness that the choices stand before the continuation, and which is right."""
    return {
        "doc_to_text": lambda row: row["label"],
        "doc_to_choice": lambda row: list(row["contexts"]),
        "doc_to_target": lambda row: row["continuation"],
    }


def _metrics(name: str) -> list[str]:
    return list(dict.fromkeys(["acc", CHOICE_TASKS[name].metric]))
