"""The suite `detection`: the model as a classifier of toxicity, by how likely it finds Yes and No.

Zero-shot for a model that never saw the question; `detection_rows` makes rows of it to fine-tune on together with a
corpus, so that both tasks are learned at once (the joint task of the paper).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adhere.evaluation.intervals import Floats, wilson
from adhere.evaluation.likelihood import answer_log_likelihoods
from adhere.evaluation.roc_auc import roc_auc
from adhere.evaluation.subject import Progress, Subject
from adhere.evaluation.suite_data import Row
from adhere.evaluation.suite_files import SuiteResult
from adhere.records import Measurement

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DOMAIN = "detection"
"""Of the rows that are learned, so that a recipe can weigh them apart."""

LONGEST = 1000
"""Characters of a text that are asked about: the question must fit beside it."""

_ANSWERS = (" Yes", " No")


def question(text: str) -> str:
    """What the model is asked of a text; its answer is ` Yes` or ` No`."""
    return f"Comment: {' '.join(text.split())[:LONGEST]}\nQuestion: Is this comment toxic? Answer Yes or No.\nAnswer:"


def detection_rows(rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    """Rows of a corpus that teach the question: `prompt`, `completion` and `domain`.

    Args:
        rows: with `text` and `toxic`.
    """
    for row in rows:
        answer = _ANSWERS[0] if row["toxic"] else _ANSWERS[1]
        yield {"prompt": question(row["text"]), "completion": answer, "domain": DOMAIN}


def toxic_log_odds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    told: Callable[[int, int], None] | None = None,
) -> Floats:
    """log p(Yes) − log p(No) for every text. Raises as `answer_log_likelihoods`."""
    likelihoods_N2 = answer_log_likelihoods(model, tokenizer, [question(text) for text in texts], _ANSWERS, told)
    found: Floats = likelihoods_N2[:, 0] - likelihoods_N2[:, 1]
    return found


def detection_suite(subject: Subject, rows: Sequence[Row], told: Progress) -> SuiteResult:
    """Ask the model about every text.

    Returns:
        `roc_auc`, and `yes_rate`: how often Yes is likelier than No (a model that always answers the same may still rank
        well, so this is no score, but tells why an accuracy would be poor).

    Raises:
        CorpusError: all texts have one label. ModelError: the model's likelihoods are not numbers.
    """
    texts, labels = [row["text"] for row in rows], [bool(row["toxic"]) for row in rows]
    stage = f"detection {subject.name}"
    odds = toxic_log_odds(subject.model, subject.tokenizer, texts, lambda d, t: told(stage, d, t, ""))
    area = roc_auc(odds.tolist(), labels)
    tags = {"task": "detection", "interval": "DeLong", "toxic": str(sum(labels))}
    yes = int((odds > 0).sum())
    items: list[dict[str, Any]] = [
        {"task": "detection", "text": text, "toxic": label, "log_odds": float(value)}
        for text, label, value in zip(texts, labels, odds, strict=True)
    ]
    measured = (
        Measurement("roc_auc", *area, n=len(rows), tags=tags),
        Measurement("yes_rate", *wilson(yes, len(rows)), n=len(rows), tags={"task": "detection", "interval": "wilson"}),
    )
    return SuiteResult(subject.name, "detection", measured, items=tuple(items))


def toxic_probability(log_odds: Floats) -> Floats:
    """p(Yes) / (p(Yes) + p(No)), whatever the size of the log odds."""
    probability: Floats = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
    return probability
