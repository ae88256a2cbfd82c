"""The suites, and the sets of rows (tasks) that each is measured on: files, columns, and where the hub has them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adhere.errors import RecipeError

SUITES = ("toxicity", "utility", "quality", "detection", "bias")


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a row: the names it may have, and what makes a value of it (ValueError says what is allowed)."""

    names: tuple[str, ...]
    read: Callable[[object], object]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """A set of rows that a suite is measured on.

    Attributes:
        files: what its file may be called in a folder, without the suffix; `*` stands for anything.
        columns: by the name the suite knows them by.
        hub: where the hub has the like, as `id`, `id:configuration` or `id:configuration:split`; empty for nowhere.
        strata: columns by which a limited number of rows is drawn evenly.
        differ: two columns; rows in which they are equal are left out.
    """

    suite: str
    files: tuple[str, ...]
    columns: Mapping[str, Column]
    hub: str = ""
    strata: tuple[str, ...] = ()
    differ: tuple[str, str] | None = None


def text(value: object) -> str:
    """A string that is not empty, or a mapping with one as its `text` (RealToxicityPrompts)."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string that is not empty")
    return value


def name(value: object) -> str:
    """A string or a whole number, as text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a string")
    return str(value)


def flag(value: object) -> bool:
    """Yes or no: true or false, 0 or 1 (also in quotes), or a score between them, which is yes from 0.5 on."""
    if isinstance(value, str) and value.strip() in ("0", "1"):
        value = int(value)
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise ValueError("must be 0 or 1 (or a score between them)")
    return value >= 0.5


def choices(value: object) -> list[str]:
    """Two or more strings, none of them empty."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError("must be a list of two or more strings that are not empty")
    return list(value)


def place(value: object) -> int:
    """A place in a list, from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be a place in the list of choices, from 0")
    return value


def safety(value: object) -> str:
    """`safe` or `unsafe`."""
    if value not in ("safe", "unsafe"):
        raise ValueError("must be safe or unsafe")
    return str(value)


_QUESTION = {
    "question": Column(("question",), text),
    "choices": Column(("choices",), choices),
    "label": Column(("label", "answer"), place),
}
_CONTEXTS = {
    "contexts": Column(("contexts",), choices),
    "continuation": Column(("continuation",), text),
    "label": Column(("label",), place),
}


def _choice_task(name: str, columns: Mapping[str, Column] = _QUESTION) -> Task:
    return Task("utility", (f"mc_{name}*", f"{name}*"), columns)


TASKS: dict[str, Task] = {
    "rtp": Task(
        "toxicity",
        ("rtp*", "real*toxicity*"),
        {"prompt": Column(("prompt", "text"), text)},
        "allenai/real-toxicity-prompts",
    ),
    "toxigen": Task(
        "toxicity",
        ("toxigen*",),
        {
            "prompt": Column(("prompt", "text"), text),
            "group": Column(("group",), name),
            "kind": Column(("label", "prompt_label"), name, required=False),
        },
        "toxigen/toxigen-data:train",
        strata=("kind", "group"),
    ),
    "piqa": _choice_task("piqa"),
    "boolq": _choice_task("boolq"),
    "arc_easy": _choice_task("arc_easy"),
    "winogrande": _choice_task("winogrande", _CONTEXTS),
    "siqa": _choice_task("siqa"),
    "mmlu": _choice_task("mmlu"),
    "detection": Task(
        "detection",
        ("detection*", "wiki_toxicity*"),
        {
            "text": Column(("text", "comment_text"), text),
            "toxic": Column(("toxic", "label", "toxicity"), flag),
        },
        "OxAISH-AL-LLM/wiki_toxic::test",
        strata=("toxic",),
    ),
    "xstest": Task(
        "bias",
        ("xstest*",),
        {
            "prompt": Column(("prompt",), text),
            "label": Column(("label",), safety),
            "type": Column(("type",), name, required=False),
        },
        "walledai/XSTest::test",
        strata=("label", "type"),
    ),
    "identity": Task(
        "bias",
        ("identity*", "wiki_toxicity*"),
        {
            "text": Column(("text",), text),
            "swapped": Column(("text_identity_swapped", "swapped"), text),
        },
        differ=("text", "swapped"),
    ),
}
"""By name: what `--data NAME=FILE` says, and the tag `task` of a measurement."""


def suite_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """The suites that a list names, each once, in the order given.

    Args:
        given: names, or one string with commas between them.

    Raises:
        RecipeError: one is unknown (the nearest is offered), or there is none.
    """
    names = [part.strip() for part in given.split(",")] if isinstance(given, str) else list(given)
    names = [each for each in names if each]
    for each in names:
        if each not in SUITES:
            raise RecipeError(f"there is no suite {each!r}{nearest(each, SUITES)}; suites are {', '.join(SUITES)}")
    if not names:
        raise RecipeError(f"name a suite; suites are {', '.join(SUITES)}")
    return tuple(dict.fromkeys(names))


def nearest(given: str, known: Sequence[str]) -> str:
    """`; did you mean this?` for a misspelt name, or nothing."""
    near = difflib.get_close_matches(given.lower(), known, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def tasks_of(suite: str) -> list[str]:
    """The names of a suite's tasks."""
    return [each for each, task in TASKS.items() if task.suite == suite]
