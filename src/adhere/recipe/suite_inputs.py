"""What suites are measured on, found and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adhere.errors import CorpusError
from adhere.evaluation.multiple_choice import CHOICE_TASKS
from adhere.evaluation.suite_data import Row, Sources, read_task
from adhere.evaluation.suite_tasks import tasks_of
from adhere.evaluation.utility import LoadedTask, load_tasks


@dataclass(slots=True)
class SuiteInputs:
    """Rows by suite and task, the harness's tasks, where each came from, and what is missing and why."""

    rows: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    harness: list[LoadedTask] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def read_suite_inputs(suites: Sequence[str], sources: Sources, limit: int | None, seed: int) -> SuiteInputs:
    """Read what the suites need.

    Args:
        limit: rows a task at most; drawn with `seed`, which is the same for every model.

    Raises:
        CorpusError: a file or hub data set cannot be read, lacks a column, or a suite has no task at all.
        RecipeError: utility is asked for, and lm-evaluation-harness is not installed.
    """
    found = SuiteInputs()
    for suite in suites:
        rows, notes = found.rows.setdefault(suite, {}), found.notes.setdefault(suite, [])
        hub: list[str] = []
        named = set(sources.named) & set(tasks_of(suite))
        for task in tasks_of(suite):
            if named and task not in named and sources.folder is None:
                continue  # what is named alone is meant alone
            if suite == "utility" and sources.folder is None and not named:
                hub.append(task)
                found.places[task] = f"lm-evaluation-harness, {CHOICE_TASKS[task].harness}"
                continue
            place = sources.place_of(task)
            if place is None:
                notes.append(sources.why_missing(task))
                continue
            examples = CHOICE_TASKS[task].shots if task in CHOICE_TASKS else 0
            rows[task] = read_task(task, place, None if limit is None else limit + examples, seed)
            found.places[task] = place
        if tasks_of(suite) and not rows and not hub:
            raise CorpusError(f"there is nothing to measure {suite} on: {'; '.join(notes)}")
        if suite == "utility":
            found.harness = load_tasks(rows, hub)
    return found
