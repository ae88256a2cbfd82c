"""Quality of what a model writes, as other models see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import CorpusError
from adhere.evaluation import output_quality
from adhere.evaluation.output_quality import Opponent, quality_suite
from adhere.evaluation.referee import LocalReferee
from adhere.evaluation.subject import Subject, write
from adhere.evaluation.suite_files import SuiteResult
from adhere.records import Sample
from adhere.sampling.sampler import SamplingConfig

HOW = SamplingConfig(max_new_tokens=6)


def _sample(prompt: str, output: str, index: int = 0) -> Sample:
    return Sample(index, 0, prompt, output, (1,), (2,), True, -1.0)


def _suite(
    subject: Subject, *referees: Any, opponent: Opponent | None = None, human: tuple[str, ...] = ()
) -> SuiteResult:
    return quality_suite(subject, ["one", "two"], human, referees, opponent, HOW, 2, 0, lambda *_: None)


def test_perplexity_of_outputs_is_that_of_their_tokens_after_their_prompts(
    byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = [_sample("ab", " cd"), _sample("longer prompt", " x", 1), _sample("p", "  ", 2)]
    nats, tokens = 0.0, 0
    for sample in samples[:2]:
        stem, tail = (byte_tokenizer(text)["input_ids"] for text in (sample.prompt, sample.output))
        with torch.no_grad():
            log_p_TV = byte_model(input_ids=torch.tensor([stem + tail])).logits[0].float().log_softmax(-1)
        nats -= sum(float(log_p_TV[len(stem) - 1 + n, token]) for n, token in enumerate(tail))
        tokens += len(tail)
    measured = output_quality.output_perplexity(byte_model, byte_tokenizer, samples)
    assert measured.value == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert (measured.n, measured.tags["empty"]) == (2, "1")


def test_what_is_not_measured_is_said(subject: Subject) -> None:
    result = _suite(subject)
    assert {m.name for m in result.measurements} == {
        "distinct_1", "distinct_2", "distinct_3", "repetition", "looping", "mean_length", "empty_rate",
    }  # fmt: skip
    assert "no other model was named (--referee MODEL)" in result.notes[0]
    assert "--against MODEL" in result.notes[1]
    other = Opponent("sft", write(subject, ["one", "two"], HOW, 2, 1))
    assert "no referee was named" in _suite(subject, opponent=other).notes[1]


def test_a_local_referee_gives_perplexity_and_a_win_rate(
    subject: Subject, byte_model: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    reader = LocalReferee(byte_model, byte_tokenizer, "reader")
    result = _suite(subject, reader, opponent=Opponent("sft", write(subject, ["one", "two"], HOW, 2, 1)))
    assert result.find("output_perplexity", referee="reader").value > 1
    rate = result.find("win_rate", referee="reader", against="sft")
    assert 0 <= rate.value <= 1
    assert [item["task"] for item in result.items] == ["output"] * 4 + ["win_rate"] * 4


def test_a_referee_that_goes_by_the_place_is_told_of(subject: Subject, rule_referee: Callable[..., Any]) -> None:
    other = Opponent("sft", write(subject, ["one", "two"], HOW, 2, 1))
    notes = _suite(subject, rule_referee(lambda question: "A"), opponent=other).notes
    assert any("changes its mind with the order in 4 of 4 pairs (it prefers the first place 100 %" in n for n in notes)


def test_nothing_to_write_on_from_is_an_error(subject: Subject) -> None:
    with pytest.raises(CorpusError, match="no held-out prompts"):
        quality_suite(subject, [], [], [], None, HOW, 1, 0, lambda *_: None)


def test_mauve_says_why_it_was_not_measured(
    subject: Subject,
    byte_model: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = LocalReferee(byte_model, byte_tokenizer, "reader")
    monkeypatch.setattr(output_quality, "find_spec", lambda name: object())
    assert any("mauve was not measured: it needs 100 texts a side" in note for note in _suite(subject, reader).notes)
    monkeypatch.setattr(output_quality, "find_spec", lambda name: None)
    assert any("mauve was not measured: it is not installed" in note for note in _suite(subject, reader).notes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mauve_tells_the_same_texts_from_others(
    subject: Subject,
    byte_model: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mauve")
    monkeypatch.setattr(output_quality, "MAUVE_LEAST", 20)
    reader = LocalReferee(byte_model, byte_tokenizer, "reader")
    outputs = [f"text number {n} of {n % 7}" for n in range(40)]
    samples = [_sample("p", output, n) for n, output in enumerate(outputs)]
    monkeypatch.setattr(output_quality, "write", lambda *_: samples)
    same = _suite(subject, reader, human=tuple(outputs)).find("mauve", referee="reader")
    other = _suite(subject, reader, human=tuple(f"{n}!!" for n in range(40))).find("mauve", referee="reader")
    assert same.value > 0.9 > 0.5 > other.value
    assert same.n == 40
