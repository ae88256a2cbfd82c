"""Tiny BERTs with random weights; what they should say is computed by transformers itself, one text at a time."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from adhere.errors import ModelError, OracleError
from adhere.oracles import ClassifierOracle

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "have", "a", "lovely", "day", "you", "idiot"]
WORDS += ["one", "two", "three", "four", "five", "six"]
TEXTS = ["have a lovely day", "you idiot", "", "one two three four five six", "you", "have a day", "naïve 🙂"]


def make_classifier(folder: Path, labels: list[str], problem: str | None = None, seed: int = 0) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def logits_of(folder: Path, texts: list[str]) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def scores(oracle: ClassifierOracle, texts: list[str]) -> list[float | None]:
    return oracle.score([""] * len(texts), texts)


@pytest.fixture
def multi(tmp_path: Path) -> Path:
    return make_classifier(tmp_path, ["toxic", "obscene", "threat"], "multi_label_classification")


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return make_classifier(tmp_path, ["fine", "toxic"])


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_multi_label_classifier_is_a_sigmoid_of_the_labels_own_logit(multi: Path, batch_size: int) -> None:
    expected = 1 - logits_of(multi, TEXTS).sigmoid()[:, 1]
    got = scores(ClassifierOracle(multi, label="obscene", soft=True, batch_size=batch_size), TEXTS)
    assert got == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_a_single_label_classifier_is_a_softmax_over_the_labels(tmp_path: Path, problem: str | None) -> None:
    folder = make_classifier(tmp_path, ["fine", "toxic"], problem)
    expected = 1 - logits_of(folder, TEXTS).softmax(-1)[:, 1]
    assert scores(ClassifierOracle(folder, soft=True), TEXTS) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_single_logit_is_a_sigmoid(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path, ["toxic"])
    expected = 1 - logits_of(folder, TEXTS).sigmoid()[:, 0]
    assert scores(ClassifierOracle(folder, soft=True), TEXTS) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_label_may_have_to_be_present_instead(single: Path) -> None:
    absent = scores(ClassifierOracle(single, soft=True), TEXTS)
    present = scores(ClassifierOracle(single, soft=True, satisfied_when="present"), TEXTS)
    assert [a + p for a, p in zip(absent, present, strict=True)] == pytest.approx([1.0] * len(TEXTS))
    fine = scores(ClassifierOracle(single, label="fine", soft=True, satisfied_when="present"), TEXTS)
    assert fine == pytest.approx(absent)


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_hard_scores_cut_the_probability_at_the_threshold(single: Path, rank: int) -> None:
    probability = logits_of(single, TEXTS).softmax(-1)[:, 1].tolist()
    threshold = sum(sorted(probability)[rank : rank + 2]) / 2
    absent = scores(ClassifierOracle(single, threshold=threshold), TEXTS)
    present = scores(ClassifierOracle(single, threshold=threshold, satisfied_when="present"), TEXTS)
    assert absent == [float(p < threshold) for p in probability]
    assert present == [float(p > threshold) for p in probability]
    assert sum(present) == len(TEXTS) - 1 - rank


def test_an_unknown_label_lists_those_there_are(multi: Path) -> None:
    with pytest.raises(OracleError, match="no label 'rude'; its labels are 'toxic', 'obscene', 'threat'"):
        ClassifierOracle(multi, label="rude")
    assert ClassifierOracle(multi, label="Threat").name.endswith("Threat")


def test_what_is_cut_off_is_counted_and_warned_of_once(single: Path) -> None:
    oracle = ClassifierOracle(single, soft=True)  # the model has 12 positions, 2 of them for [CLS] and [SEP]
    fits, cut = "one " * 10, "one " * 10 + "idiot"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores(oracle, [fits])
    with pytest.warns(UserWarning, match="read only the first 12 tokens of 1 of 2 texts"):
        got = scores(oracle, [fits, cut, cut])
    assert got[1] == pytest.approx(got[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores(oracle, [cut])
    assert oracle.truncated == 2


def test_a_shorter_limit_can_be_asked_for_but_no_longer_one(single: Path) -> None:
    short = ClassifierOracle(single, soft=True, max_length=4)
    with pytest.warns(UserWarning, match="first 4 tokens"):
        assert scores(short, ["you idiot one two"]) == pytest.approx(scores(short, ["you idiot"]))
    with pytest.warns(UserWarning, match="first 12 tokens"):
        scores(ClassifierOracle(single, max_length=100), ["one " * 50])


def test_a_text_without_a_token_gets_no_verdict(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((single / "tokenizer.json").read_text())
    config["post_processor"] = None
    (single / "tokenizer.json").write_text(json.dumps(config))
    got = scores(ClassifierOracle(single), ["", "you idiot"])
    assert got[0] is None
    assert got[1] is not None


def test_the_version_changes_with_weights_and_settings(tmp_path: Path) -> None:
    first = make_classifier(tmp_path / "a", ["fine", "toxic"])
    same = make_classifier(tmp_path / "b", ["fine", "toxic"])
    other = make_classifier(tmp_path / "c", ["fine", "toxic"], seed=1)
    assert ClassifierOracle(first).version == ClassifierOracle(same).version
    oracles = [
        ClassifierOracle(first),
        ClassifierOracle(other),  # the same sizes, other weights
        ClassifierOracle(first, label="fine"),
        ClassifierOracle(first, satisfied_when="present"),
        ClassifierOracle(first, threshold=0.6),
        ClassifierOracle(first, soft=True),
        ClassifierOracle(first, max_length=5),
    ]
    assert len({oracle.version for oracle in oracles}) == len(oracles)


def test_a_folder_that_is_no_classifier_is_a_model_error(tmp_path: Path, single: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        ClassifierOracle(tmp_path / "nothing here")
    (single / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        ClassifierOracle(single)


def test_pickled_weights_are_not_read(single: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(single)
    (single / "model.safetensors").unlink()
    torch.save(model.state_dict(), single / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        ClassifierOracle(single)


def test_settings_that_contradict_are_refused(single: Path, tmp_path: Path) -> None:
    with pytest.raises(OracleError, match=r"threshold must be in \(0, 1\)"):
        ClassifierOracle(single, threshold=1.0)
    with pytest.raises(OracleError, match=r"0\.5 with soft; got 0.7, soft=True"):
        ClassifierOracle(single, threshold=0.7, soft=True)
    with pytest.raises(OracleError, match="'absent' or 'present', got 'never'"):
        ClassifierOracle(single, satisfied_when="never")  # type: ignore[arg-type]
    regression = make_classifier(tmp_path / "regression", ["toxic"], "regression")
    with pytest.raises(OracleError, match="regression"):
        ClassifierOracle(regression)
