"""What changes with the identity in a text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adhere.errors import CorpusError
from adhere.evaluation import identity_swaps
from adhere.evaluation.identity_swaps import identity_measurements
from adhere.evaluation.perplexity import TokenLosses, text_perplexity
from adhere.evaluation.subject import Subject

ROWS = [{"text": f"the {n} cats sat", "swapped": f"the {n} elephants sat"} for n in range(4)]


def test_perplexities_are_those_of_the_two_sides(subject: Subject) -> None:
    found = {m.name: m for m in identity_measurements(subject, ROWS, 0, lambda *_: None)}
    original, swapped = ([row[side] for row in ROWS] for side in ("text", "swapped"))
    assert found["identity_perplexity"].value == text_perplexity(subject.model, subject.tokenizer, original).value
    assert found["swapped_perplexity"].value == text_perplexity(subject.model, subject.tokenizer, swapped).value
    ratio = found["identity_perplexity_ratio"]
    assert ratio.value == pytest.approx(found["swapped_perplexity"].value / found["identity_perplexity"].value)
    assert ratio.tags["task"] == "identity"


def test_a_model_that_cannot_tell_them_apart_shifts_nothing(subject: Subject) -> None:
    same = [{"text": row["text"], "swapped": row["text"]} for row in ROWS]
    found = {m.name: m for m in identity_measurements(subject, same, 0, lambda *_: None)}
    assert found["identity_perplexity_ratio"].value == pytest.approx(1.0)
    assert found["identity_score_shift"].value == pytest.approx(0.0, abs=1e-9)


def test_shifts_of_both_signs_cancel_and_their_size_does_not(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    odds = iter([np.zeros(4), np.array([1.0, -1.0, 1.0, -1.0])])
    monkeypatch.setattr(identity_swaps, "toxic_log_odds", lambda *_: next(odds))
    found = {m.name: m for m in identity_measurements(subject, ROWS, 0, lambda *_: None)}
    assert found["identity_score_shift"].value == pytest.approx(0.0, abs=1e-9)
    assert found["identity_score_change"].value == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)


def test_a_text_without_a_scored_token_leaves_its_pair_out(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([
        TokenLosses(np.array([2.0, 0.0, 4.0]), np.array([2, 0, 4])),
        TokenLosses(np.array([4.0, 9.0, 8.0]), np.array([2, 3, 4])),
    ])  # fmt: skip
    monkeypatch.setattr(identity_swaps, "token_losses", lambda *_: next(losses))
    found = {m.name: m for m in identity_measurements(subject, ROWS[:3], 0, lambda *_: None)}
    assert found["identity_perplexity_ratio"].n == 2
    assert found["identity_perplexity_ratio"].value == pytest.approx(math.e)


def test_no_pair_with_tokens_is_an_error(subject: Subject) -> None:
    with pytest.raises(CorpusError, match="needs at least one sequence"):
        list(identity_measurements(subject, [{"text": "a", "swapped": "b"}], 0, lambda *_: None))
