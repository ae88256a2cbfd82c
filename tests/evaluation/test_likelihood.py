"""The likelihood of given answers, against the model asked token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import ModelError
from adhere.evaluation.likelihood import answer_log_likelihoods


def _one(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> float:
    ids, tail = tokenizer(question)["input_ids"], tokenizer(answer)["input_ids"]
    total = 0.0
    for token in tail:
        with torch.no_grad():
            logits_V = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        total += float(logits_V.log_softmax(-1)[token])
        ids = [*ids, token]
    return total


QUESTIONS = ["short?", "a question that is a good deal longer than the other?", "x"] * 7


@pytest.mark.parametrize("answers", [("A", "B"), (" Yes", " No"), ("A", " No")])
def test_likelihoods_are_those_of_the_tokens_one_by_one(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, answers: tuple[str, str]
) -> None:
    told: list[tuple[int, int]] = []
    found = answer_log_likelihoods(byte_model, byte_tokenizer, QUESTIONS, answers, lambda d, t: told.append((d, t)))
    expected = [[_one(byte_model, byte_tokenizer, question, answer) for answer in answers] for question in QUESTIONS]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert told[-1] == (21, 21)


def test_answers_of_one_token_share_a_pass(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = byte_model.forward

    def counted(**keywords: torch.Tensor) -> object:
        calls.append(len(keywords["input_ids"]))
        return forward(**keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(byte_model, "forward", counted)
    answer_log_likelihoods(byte_model, byte_tokenizer, ["q1", "q2"], ["A", "B", "C"])
    assert calls == [2]


def test_a_question_longer_than_the_context_loses_its_beginning(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    long = answer_log_likelihoods(byte_model, byte_tokenizer, ["z" * 400 + "b" * 510], ["ab", "cd"])
    assert long.tolist() == answer_log_likelihoods(byte_model, byte_tokenizer, ["b" * 510], ["ab", "cd"]).tolist()


def test_answers_that_the_tokenizer_cannot_tell_apart_are_refused(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ModelError, match="cannot tell the answers 'A', 'B' apart"):
        answer_log_likelihoods(tiny_model, tiny_tokenizer, ["q"], ["A", "B"])  # it knows no capitals


def test_likelihoods_that_are_not_numbers_are_an_error_and_the_mode_stays(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    nothing = SimpleNamespace(logits=torch.full((1, 2, 257), float("nan")))
    monkeypatch.setattr(byte_model, "forward", lambda **_: nothing)
    byte_model.train()
    with pytest.raises(ModelError, match="not numbers"):
        answer_log_likelihoods(byte_model, byte_tokenizer, ["qq"], ["A", "B"])
    assert byte_model.training
    byte_model.eval()
