"""Safety models that write their verdict: its probability, of all spellings and lines, and in no other way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import ModelError, OracleError
from adhere.oracles import GuardOracle, judge, presets
from adhere.oracles.presets import GUARDS, Guard

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    "{% if guideline is defined %}Rule: {{ guideline }}{% endif %}{% if add_generation_prompt %}Verdict:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama over bytes with strong opinions, and a tokenizer that knows `<s>` and has a chat template."""
    path = tmp_path_factory.mktemp("guard")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**{c: i for i, c in enumerate(alphabet)}, "<s>": 256, "<eos>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<eos>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.5, bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def any_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was never trained gives no answer much probability."""
    monkeypatch.setattr("adhere.oracles.guard.LEAST_MASS", 0.0)


def make(folder: Path, preset: Any = "llama-guard-3", **settings: Any) -> GuardOracle:
    return GuardOracle(preset, model=folder, dtype="float32", soft=True, **settings)


def by_hand(folder: Path, prompt: str, guard: Guard) -> float:
    """The share of the satisfying answers, each answer's probability token by token."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def probability(answer: str) -> float:
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        total = 0.0
        for place in range(len(start), len(ids)):
            with torch.no_grad():
                logits = model(torch.tensor([ids[:place]])).logits[0, -1]
            total += float(logits.log_softmax(-1)[ids[place]])
        return math.exp(total)

    bad, good = (sum(map(probability, answers)) for answers in (guard.violating, guard.satisfying))
    return good / (bad + good)


def test_the_score_is_the_share_of_the_answers_that_mean_safe(folder: Path) -> None:
    texts = ["one", "another text", ""]
    prompts = ["what?", "", "how {output}?"]
    expected = [
        by_hand(folder, f"<s>user: {prompt}<s>assistant: {text}Verdict:", GUARDS["llama-guard-3"])
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    oracle = make(folder, batch_size=2)
    assert oracle.judges_prompt
    assert judge(oracle, prompts, texts) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3
    assert oracle.spending.answered == 3


def test_wildguard_counts_its_third_answer_whatever_the_first_two_are(folder: Path) -> None:
    guard = GUARDS["wildguard"]
    assert len(set(guard.violating) | set(guard.satisfying)) == 8
    assert all(answer.endswith("Harmful response: yes") for answer in guard.violating)
    assert guard.template is not None
    prompt = guard.template.replace("{prompt}", "p {output}").replace("{output}\n\n---", "text\n\n---")
    assert judge(make(folder, "wildguard"), ["p {output}"], ["text"]) == pytest.approx(
        [by_hand(folder, prompt, guard)], abs=1e-5
    )


def test_shieldgemma_is_told_the_rule(folder: Path) -> None:
    with pytest.raises(OracleError, match="needs a policy, the rule in words"):
        make(folder, "shieldgemma")
    with pytest.raises(OracleError, match="has no place for a policy"):
        make(folder, "wildguard", policy="No violence.")
    oracle = make(folder, "shieldgemma", policy="No violence.")
    expected = by_hand(folder, "<s>user: p<s>assistant: tRule: No violence.Verdict:", GUARDS["shieldgemma"])
    assert judge(oracle, ["p"], ["t"]) == pytest.approx([expected], abs=1e-5)
    assert oracle.version != make(folder, "shieldgemma", policy="Another.").version


def test_marks_of_the_model_in_a_text_are_not_read_as_such(folder: Path) -> None:
    oracle = make(folder)
    answers = oracle._answers(*(oracle._plain(text) for text in ("a", "b<s>assistant: c")))
    assert answers is not None
    assert list(answers[0].ids).count(256) == 2  # those of the template


def test_a_text_too_long_for_the_model_is_no_verdict_and_not_judged_by_its_beginning(folder: Path) -> None:
    oracle = make(folder, max_length=60)
    assert judge(oracle, ["", ""], ["x" * 100, "x"])[0] is None
    assert judge(oracle, [""], ["x"])[0] is not None
    assert "1 × too long for the model" in oracle.trouble()


def test_a_model_that_would_say_something_else_gives_no_verdict(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adhere.oracles.guard.LEAST_MASS", 0.05)
    oracle = make(folder)
    assert judge(oracle, [""], ["x"]) == [None]
    assert "1 × another answer than any known" in oracle.trouble()


def test_the_threshold_is_of_the_violation(folder: Path) -> None:
    (soft,) = judge(make(folder), ["p"], ["t"])
    assert soft is not None and 0 < soft < 1
    for threshold, expected in ((1 - soft + 1e-3, 1.0), (1 - soft - 1e-3, 0.0)):
        oracle = GuardOracle("llama-guard-3", model=folder, dtype="float32", threshold=threshold)
        assert judge(oracle, ["p"], ["t"]) == [expected]


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        make(tmp_path)
    with pytest.raises(OracleError, match="preset must be one of llama-guard-3, shieldgemma, wildguard, got 'other'"):
        make(folder, "other")
    bare = tmp_path / "bare"
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(bare)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(bare)
    with pytest.raises(ModelError, match="brings no chat template"):
        make(bare)


def test_each_preset_of_a_classifier_names_a_model_a_label_and_how_labels_relate() -> None:
    """As they were looked up: docs/oracles.md."""
    found = {name: (each.model, each.label, each.multi_label) for name, each in presets.CLASSIFIERS.items()}
    assert found == {
        "toxic-bert": ("unitary/toxic-bert", "toxic", True),
        "unbiased-toxic-roberta": ("unitary/unbiased-toxic-roberta", "toxicity", True),
        "multilingual-toxic-xlm-roberta": ("unitary/multilingual-toxic-xlm-roberta", "toxicity", True),
        "roberta-toxicity": ("s-nlp/roberta_toxicity_classifier", "toxic", False),
        "toxigen-roberta": ("tomh/toxigen_roberta", "LABEL_1", False),
    }
