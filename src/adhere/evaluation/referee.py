"""A referee: another model that reads what was written and answers short questions about it.

A referee is asked with a few possible answers, and gives one of them or None: it answered something else, or could not
be reached. None is counted apart, never as one of the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adhere.evaluation.likelihood import answer_log_likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Told = Callable[[int, int], None]

LITTLE = 0.1
"""A local referee that gives all answers together less probability than this (in the median) does not understand."""


class Referee(Protocol):
    """Whoever answers.

    Attributes:
        name: what tables call it.
        notes: sentences on how its answers are to be read; they grow as it is asked.
    """

    name: str
    notes: list[str]

    def answers(self, questions: Sequence[str], options: Sequence[str], told: Told | None = None) -> list[str | None]:
        """For each question one of the options, or None."""
        ...


class LocalReferee:
    """A causal language model: its answer is the option that it finds likeliest after the question.

    A model with a chat template is asked as in a chat, any other is given `Answer:` to go on from.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.notes: list[str] = []

    def answers(self, questions: Sequence[str], options: Sequence[str], told: Told | None = None) -> list[str | None]:
        if not questions:
            return []
        is_chat = bool(self.tokenizer.chat_template)
        asked = [self._chat(question) if is_chat else f"{question}\nAnswer:" for question in questions]
        written = [option if is_chat else f" {option}" for option in options]
        likelihoods_NK = answer_log_likelihoods(self.model, self.tokenizer, asked, written, told)
        together = float(np.median(np.exp(likelihoods_NK).sum(axis=1)))
        if together < LITTLE:
            self.notes.append(
                f"{self.name} gives {' and '.join(options)} together a probability of {together:.2g} (median): it does "
                "not really answer, so do not lean on what it says"
            )
        best_N = likelihoods_NK.argmax(axis=1)
        ties_N = (likelihoods_NK == likelihoods_NK.max(axis=1, keepdims=True)).sum(axis=1) > 1
        return [None if tied else options[best] for best, tied in zip(best_N.tolist(), ties_N.tolist(), strict=True)]

    def _chat(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def read_answer(reply: str, options: Sequence[str]) -> str | None:
    """The option that a reply begins with, or the only one that stands in it as a word in capitals of its own.

    >>> read_answer("A, because it is shorter.", ["A", "B"])
    'A'
    >>> read_answer("I would say [[B]].", ["A", "B"])
    'B'
    >>> read_answer("Neither.", ["A", "B"]) is None
    True
    """
    begins = re.match(r"\W*(\w+)", reply)
    if begins is not None:
        word = begins[1]
        # `A` begins many a sentence as an article: then it must stand alone, or before a mark.
        alone = re.match(r"\W*\w+\s*(?:$|[^\w\s])", reply) is not None
        for option in options:
            if word.casefold() == option.casefold() and (alone or len(option) > 1):
                return option
    marked = {option for option in options if re.search(rf"[\[(*\"']{re.escape(option)}[\])*\"']", reply)}
    return marked.pop() if len(marked) == 1 else None
