"""The harness in this process, on a model of a few thousand weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from adhere.errors import CorpusError, ModelError, RecipeError
from adhere.evaluation.likelihood import answer_log_likelihoods
from adhere.evaluation.subject import Subject
from adhere.evaluation.utility import _Callable, _can_share, check_harness, load_tasks, utility_suite
from adhere.sampling.guided_model import GuidedForCausalLM

pytest.importorskip("lm_eval")

PIQA = [{"question": f"How to {n}?", "choices": [f"do {n} slowly", "wait"], "label": n % 2} for n in range(12)]
WINO = [{"contexts": [f"the cat {n}", f"my dog {n}"], "continuation": "ran off.", "label": n % 2} for n in range(9)]
MMLU = [{"question": f"{n}+1?", "choices": ["1", "2", "3", "4"], "label": n % 4} for n in range(10)]


def _silent(*_: object) -> None:
    pass


def _likeliest(subject: Subject, questions: list[str], answers: list[list[str]], per_byte: bool) -> list[int]:
    best = []
    for question, choices in zip(questions, answers, strict=True):
        found = answer_log_likelihoods(subject.model, subject.tokenizer, [question], choices)[0]
        lengths = [len(choice.strip().encode()) for choice in choices]
        best.append(int(np.argmax(found / lengths if per_byte else found)))
    return best


def test_accuracy_is_that_of_the_likeliest_choice(subject: Subject) -> None:
    result = utility_suite(subject, load_tasks({"piqa": PIQA}), None, 0, _silent)
    questions = [f"Question: {row['question']}\nAnswer:" for row in PIQA]
    answers = [[f" {choice}" for choice in row["choices"]] for row in PIQA]  # type: ignore[union-attr]
    for name, metric, per_byte in (("accuracy", "acc_norm", True), ("accuracy_plain", "acc", False)):
        best = _likeliest(subject, questions, answers, per_byte)
        right = sum(choice == row["label"] for choice, row in zip(best, PIQA, strict=True))
        measured = result.find(name, task="piqa", metric=metric)
        assert measured.value == pytest.approx(right / len(PIQA))
        assert measured.n == 12
        assert measured.low is not None and measured.low < measured.value
    assert sum(item["acc"] for item in result.items) == result.find("accuracy_plain").value * 12


def test_an_answer_longer_than_the_models_context_is_refused_by_name(subject: Subject) -> None:
    rows = [{"question": "How?", "choices": ["so", "by walking " * 50], "label": 0}]
    with pytest.raises(ModelError, match=r"piqa: the answer 'by walking .* has \d+ tokens, .* context is 51[12]"):
        utility_suite(subject, load_tasks({"piqa": rows}), None, 0, _silent)


def test_winogrande_compares_one_continuation_after_two_contexts(subject: Subject) -> None:
    result = utility_suite(subject, load_tasks({"winogrande": WINO}), None, 0, _silent)
    right = 0
    for row in WINO:
        scores = [
            answer_log_likelihoods(subject.model, subject.tokenizer, [context], [" ran off.", " x"])[0, 0]
            for context in row["contexts"]  # type: ignore[union-attr]
        ]
        right += int(np.argmax(scores)) == row["label"]
    assert result.find("accuracy", task="winogrande", metric="acc").value == pytest.approx(right / len(WINO))


def test_mmlu_is_scored_without_its_examples_and_progress_is_told(subject: Subject) -> None:
    told: list[tuple[str, int, int]] = []
    result = utility_suite(
        subject, load_tasks({"mmlu": MMLU}), None, 0, lambda stage, done, total, note: told.append((stage, done, total))
    )
    measured = result.find("accuracy", task="mmlu")
    assert (measured.n, measured.tags["shots"]) == (5, "5")
    assert told[-1] == ("mmlu ours", 5, 5)


def test_the_mean_over_commonsense_counts_every_set_the_same_and_needs_all_of_them(subject: Subject) -> None:
    rows: dict[str, Any] = {"piqa": PIQA, "boolq": PIQA[:2], "arc_easy": PIQA[:3], "siqa": PIQA[:4], "winogrande": WINO}
    result = utility_suite(subject, load_tasks(rows), None, 0, _silent)
    mean = result.find("accuracy", task="commonsense, mean")
    each = [result.find("accuracy", task=task) for task in rows]
    assert mean.value == pytest.approx(sum(m.value for m in each) / 5)
    reach = 1.959964 * math.sqrt(sum(m.value * (1 - m.value) / m.n for m in each)) / 5
    assert mean.high == pytest.approx(min(1.0, mean.value + reach), abs=1e-4)
    del rows["siqa"]
    with pytest.raises(KeyError):
        utility_suite(subject, load_tasks(rows), None, 0, _silent).find("accuracy", task="commonsense, mean")


def test_a_limit_takes_the_same_questions_for_every_model(subject: Subject) -> None:
    chosen = [
        [item["number"] for item in utility_suite(subject, load_tasks({"piqa": PIQA}), 4, 7, _silent).items]
        for _ in range(2)
    ]
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 4
    assert chosen[0] != [0, 1, 2, 3]


def test_a_module_that_is_only_called_like_a_model_will_do(subject: Subject) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = subject.model
            self.config = subject.model.config
            self.device = subject.model.device

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    wrapped = Subject("ours", Wrapped(), subject.tokenizer)  # type: ignore[arg-type]
    results = [utility_suite(each, load_tasks({"piqa": PIQA}), None, 0, _silent) for each in (subject, wrapped)]
    assert results[0].measurements == results[1].measurements


def test_what_all_questions_begin_with_is_read_once_and_changes_no_answer(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, read = subject.model.forward, []

    def watched(**keywords: Any) -> Any:
        read.append(tuple(keywords["input_ids"].shape))
        return inner(**keywords)

    monkeypatch.setattr(subject.model, "forward", watched)
    together = utility_suite(subject, load_tasks({"mmlu": MMLU}), None, 0, _silent)
    shared = [length for rows, length in read if rows == 1]
    assert shared
    assert min(shared) >= 64
    assert max(length for rows, length in read if rows > 1) < min(shared)
    monkeypatch.setattr("adhere.evaluation.utility._SHARED", 10**6)
    read.clear()
    apart = utility_suite(subject, load_tasks({"mmlu": MMLU}), None, 0, _silent)
    assert max(length for _, length in read) > max(shared)
    assert together == apart


def test_a_shared_beginning_gives_the_logits_of_whole_rows(subject: Subject) -> None:
    rows = torch.randint(0, 256, (3, 90), generator=torch.Generator().manual_seed(0))
    rows[:, :70] = rows[:1, :70]
    with torch.inference_mode():
        told = _Callable(subject.model)(rows).logits
        whole = subject.model(input_ids=rows).logits
    assert torch.allclose(told, whole, atol=1e-5)


@pytest.mark.parametrize("changed", [{"sliding_window": 8}, {"layer_types": ["sliding_attention"]}])
def test_a_model_that_forgets_reads_whole_rows(
    subject: Subject, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _can_share(subject.model)
    for name, value in changed.items():
        monkeypatch.setattr(subject.model.config, name, value, raising=False)
    assert not _can_share(subject.model)


def test_a_guided_model_reads_whole_rows(subject: Subject) -> None:
    assert not _can_share(GuidedForCausalLM(subject.model, []))


def test_likelihoods_that_are_not_numbers_are_an_error_and_no_accuracy(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = subject.model.forward

    def broken(**keywords: Any) -> Any:
        output = forward(**keywords)
        output.logits[:] = float("nan")
        return output

    monkeypatch.setattr(subject.model, "forward", broken)
    with pytest.raises(ModelError, match="on piqa are not numbers"):
        utility_suite(subject, load_tasks({"piqa": PIQA}), None, 0, _silent)


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_harness()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'adhere\[eval\]'"):
        check_harness()


def test_a_set_of_the_hub_that_cannot_be_fetched_says_to_give_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Manager:
        def __init__(self, **_: object) -> None: ...

        def load(self, names: list[str]) -> None:
            raise ConnectionError("offline")

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Manager)
    with pytest.raises(
        CorpusError, match=r"the set siqa cannot be fetched by lm-evaluation-harness: offline.*--data siqa="
    ):
        load_tasks({}, ["siqa"])


def test_a_set_of_the_hub_is_asked_with_the_examples_it_is_reported_with(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    own = {f"mmlu_{n}": task for n in (1, 2) for task in load_tasks({"mmlu": MMLU})[0].tasks.values()}

    class Manager(TaskManager):  # type: ignore[misc]
        def __init__(self, **_: object) -> None: ...

        def load(self, names: list[str]) -> dict[str, Any]:
            assert names == ["mmlu"]
            return {"tasks": own}

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Manager)
    (loaded,) = load_tasks({}, ["mmlu"])
    assert [task.get_config("num_fewshot") for task in loaded.tasks.values()] == [5, 5]
