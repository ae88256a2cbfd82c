"""What counts as an answer, and a local model as referee."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.evaluation import referee
from adhere.evaluation.referee import LocalReferee, read_answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("A", "A"), ("B.", "B"), ("  **B**", "B"), ("a", "A"), ("A: it is shorter", "A"), ("(B)", "B"),
        ("My verdict is [[A]].", "A"), ("I choose 'B'", "B"),
        ("A fine question, but no.", None), ("Neither.", None), ("", None), ("Both [[A]] and [[B]]", None), ("C", None),
        ("Because", None),
    ],
)  # fmt: skip
def test_an_answer_is_the_letter_that_a_reply_begins_with_or_marks(reply: str, answer: str | None) -> None:
    assert read_answer(reply, ("A", "B")) == answer


@pytest.mark.parametrize(("reply", "answer"), [("Yes, it does", "Yes"), ("no", "No"), ("Not at all", None)])
def test_words_are_answers_too(reply: str, answer: str | None) -> None:
    assert read_answer(reply, ("Yes", "No")) == answer


def test_a_local_referee_answers_what_it_finds_likeliest(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], list[str]]] = []

    def likelihoods(model: object, tokenizer: object, questions: list[str], answers: list[str], told: object) -> object:
        asked.append((questions, answers))
        return np.log([[0.6, 0.3], [0.1, 0.8], [0.4, 0.4]])

    monkeypatch.setattr(referee, "answer_log_likelihoods", likelihoods)
    local = LocalReferee(byte_model, byte_tokenizer, "tiny")
    assert local.answers(["q1", "q2", "q3"], ("A", "B")) == ["A", "B", None]
    assert asked == [(["q1\nAnswer:", "q2\nAnswer:", "q3\nAnswer:"], [" A", " B"])]
    assert local.notes == []
    assert local.answers([], ("A", "B")) == []


def test_a_chat_model_is_asked_as_in_a_chat_and_one_that_does_not_answer_is_told_of(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_tokenizer, "chat_template", "<u>{{ messages[0].content }}<a>")
    seen: list[str] = []

    def likelihoods(model: object, tokenizer: object, questions: list[str], answers: list[str], told: object) -> object:
        seen.extend([*questions, *answers])
        return np.log([[0.001, 0.002]])

    monkeypatch.setattr(referee, "answer_log_likelihoods", likelihoods)
    local = LocalReferee(byte_model, byte_tokenizer, "tiny")
    assert local.answers(["q"], ("A", "B")) == ["B"]
    assert seen == ["<u>q<a>", "A", "B"]
    assert "together a probability of 0.003" in local.notes[0]


def test_a_real_model_gives_one_of_the_options(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert set(LocalReferee(byte_model, byte_tokenizer, "tiny").answers(["one", "two"], ("A", "B"))) <= {"A", "B"}
