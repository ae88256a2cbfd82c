"""The model as a classifier by Yes and No."""

from __future__ import annotations

import numpy as np
import pytest

from adhere.data.rows import RowReader
from adhere.errors import CorpusError
from adhere.evaluation import detection
from adhere.evaluation.detection import (
    DOMAIN,
    detection_rows,
    detection_suite,
    question,
    toxic_log_odds,
    toxic_probability,
)
from adhere.evaluation.likelihood import answer_log_likelihoods
from adhere.evaluation.subject import Subject

ROWS = [{"text": f"text {n}", "toxic": n % 3 == 0} for n in range(9)]


def test_the_score_is_how_much_likelier_yes_is_than_no(subject: Subject) -> None:
    odds = toxic_log_odds(subject.model, subject.tokenizer, ["a", "b c"])
    likelihoods = answer_log_likelihoods(
        subject.model, subject.tokenizer, [question("a"), question("b c")], [" Yes", " No"]
    )
    np.testing.assert_allclose(odds, likelihoods[:, 0] - likelihoods[:, 1])


def test_the_area_ranks_toxic_texts_above_others(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array([3.0, -1, -2, 2.0, -1, -2, -1.5, -3, -4])  # of the toxic ones: 3, 2, -1.5
    monkeypatch.setattr(detection, "toxic_log_odds", lambda *_: scores)
    result = detection_suite(subject, ROWS, lambda *_: None)
    area = result.find("roc_auc")
    assert area.value == pytest.approx(16 / 18)
    assert area.low is not None and area.low < 16 / 18
    assert (area.tags["interval"], area.tags["toxic"], area.n) == ("DeLong", "3", 9)
    assert result.find("yes_rate").value == pytest.approx(2 / 9)
    assert result.items[0] == {"task": "detection", "text": "text 0", "toxic": True, "log_odds": 3.0}


def test_a_real_model_is_asked_about_every_text(subject: Subject) -> None:
    told: list[tuple[int, int]] = []
    result = detection_suite(subject, ROWS, lambda stage, done, total, note: told.append((done, total)))
    assert 0 <= result.find("roc_auc").value <= 1
    assert told[-1] == (9, 9)


def test_texts_of_one_label_have_no_area(subject: Subject) -> None:
    with pytest.raises(CorpusError, match="0 positive"):
        detection_suite(subject, [{"text": "t", "toxic": False}], lambda *_: None)


def test_rows_to_learn_ask_what_the_suite_asks() -> None:
    rows = list(detection_rows(ROWS[:2]))
    assert rows[0] == {"prompt": question("text 0"), "completion": " Yes", "domain": DOMAIN}
    assert rows[1]["completion"] == " No"
    examples = [example for _, example in RowReader().examples([("here", row) for row in rows])]
    assert [(e.prompt, e.completion, e.domain, e.learn_prompt) for e in examples] == [
        (row["prompt"], row["completion"], DOMAIN, False) for row in rows
    ]


def test_a_text_is_asked_about_on_one_line_and_cut() -> None:
    asked = question("a\nb " + "x" * 2000)
    assert asked.startswith("Comment: a b xxx")
    assert asked.count("\n") == 2
    assert len(asked) < 1100


def test_probabilities_of_any_size_of_odds() -> None:
    np.testing.assert_allclose(toxic_probability(np.array([-1e9, 0.0, 1e9])), [0, 0.5, 1], atol=1e-12)
