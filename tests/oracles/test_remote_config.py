"""Sections of oracles behind a service: what they refuse, and that they never repeat a secret."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from adhere.cli.oracle_option import read_oracle
from adhere.errors import OracleError, RecipeError
from adhere.oracles import (
    CachedOracle,
    ClassifierOracle,
    EndpointOracle,
    JudgeOracle,
    ModerationOracle,
    OracleConfig,
    PerspectiveOracle,
    build_oracle,
)

ADAPTER: TypeAdapter[Any] = TypeAdapter(OracleConfig)
SECRET = "sk-proj-Abc123Def456"
LOCAL = "http://127.0.0.1:9/x"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path))
    for name in ("OPENAI_API_KEY", "PERSPECTIVE_API_KEY"):
        monkeypatch.setenv(name, SECRET)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"kind": "moderation"}, ModerationOracle),
        ({"kind": "judge", "model": "m", "rubric": "Be kind."}, JudgeOracle),
        (
            {
                "kind": "endpoint",
                "url": LOCAL,
                "request": {"t": "{output}"},
                "score_path": "s",
                "direction": "satisfied",
            },
            EndpointOracle,
        ),
    ],
)
def test_a_section_builds_a_cached_oracle_unless_it_says_otherwise(section: dict[str, Any], kind: type) -> None:
    cached = build_oracle(ADAPTER.validate_python(section))
    assert isinstance(cached, CachedOracle) and isinstance(cached.oracle, kind)
    bare = build_oracle(ADAPTER.validate_python({**section, "limits": {"cache": False}, "price": {"per_call": 1}}))
    assert type(bare) is kind
    assert (bare.name, bare.version) == (cached.name, cached.version)


def test_perspective_warns_when_it_is_built() -> None:
    with pytest.warns(UserWarning, match="ends on 2026-12-31"):
        cached = build_oracle(ADAPTER.validate_python({"kind": "perspective"}))
    assert isinstance(cached, CachedOracle) and isinstance(cached.oracle, PerspectiveOracle)
    assert cached.oracle.service.limits.requests_per_minute == 60


@pytest.mark.parametrize(
    "section",
    [
        f"{{kind: moderation, key_variable: {SECRET}}}",
        f"{{kind: judge, model: m, rubric: r, key_variable: {SECRET}}}",
        f"{{kind: moderation, url: 'https://user:{SECRET}@host/x'}}",
        f"{{kind: moderation, url: 'https://host/x?api_key={SECRET}'}}",
        f"{{kind: endpoint, url: '{LOCAL}', request: '{{output}}', score_path: s, direction: satisfied, "
        f"headers: {{X-Api-Key: {SECRET}}}}}",
        f"{{kind: endpoint, url: '{LOCAL}', request: '{{output}}', score_path: s, direction: satisfied, "
        f"key_prefix: 'Bearer {SECRET}'}}",
        f"{{kind: endpoint, url: '{LOCAL}/{SECRET}', request: '{{output}}', score_path: s, direction: satisfied}}",
        f"{{kind: endpoint, url: '{LOCAL}', request: '{{output}}', score_path: s, direction: satisfied, "
        f"headers: {{X-Team: {SECRET}}}}}",
        f"{{kind: endpoint, url: '{LOCAL}', request: {{t: '{{output}}', account: [{{password: hunter2}}]}}, score_path: s, "
        "direction: satisfied}",
        f"{{kind: endpoint, url: '{LOCAL}', request: {{t: '{{output}}', login: 'Bearer {SECRET}'}}, score_path: s, "
        "direction: satisfied}",
        f"{{kind: judge, model: m, rubric: r, request: {{api_key: {SECRET}}}}}",
    ],
)
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(section: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_oracle(section, "--oracle")
    assert SECRET not in str(caught.value) and "hunter2" not in str(caught.value)
    assert "key_variable" in str(caught.value) or "key_prefix" in str(caught.value)


def test_words_of_a_request_that_only_resemble_those_of_secrets_are_taken() -> None:
    request = {"max_tokens": 4, "keywords": "a", "author": "me", "tokenizer": "gpt2", "key": "{output}", "token": None}
    section = {"kind": "endpoint", "url": LOCAL, "request": request, "score_path": "s", "direction": "satisfied"}
    assert ADAPTER.validate_python(section).request == request


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "moderation", "url": "api.openai.com"}, "must be an address such as"),
        ({"kind": "moderation", "url": "ftp://host/x"}, "must be an address such as"),
        ({"kind": "moderation", "soft": True, "threshold": 0.4}, "leave it out with soft"),
        ({"kind": "moderation", "categories": []}, "categories"),
        ({"kind": "judge", "model": "m"}, "rubric"),
        ({"kind": "judge", "model": "m", "rubric": "r", "soft": True, "threshold": 0.4}, "leave it out with soft"),
        ({"kind": "judge", "model": "m", "rubric": "r", "method": "guess"}, "logprobs"),
        ({"kind": "endpoint", "url": LOCAL, "request": "{output}", "score_path": "s"}, "direction"),
        ({"kind": "moderation", "limits": {"concurrency": 0}}, "concurrency"),
        ({"kind": "moderation", "limits": {"per_minute": 1}}, "per_minute"),
        ({"kind": "moderation", "price": {"per_call": -1}}, "per_call"),
        ({"kind": "perspective", "attribute": "RUDENESS"}, "SEVERE_TOXICITY"),
        ({"kind": "guard", "preset": "bouncer"}, "shieldgemma"),
        ({"kind": "guard", "preset": "shieldgemma"}, "policy is missing"),
        ({"kind": "guard", "preset": "wildguard", "policy": "x"}, "policy has no place"),
        ({"kind": "classifier"}, "model is missing"),
        ({"kind": "classifier", "preset": "rude-bert"}, "toxigen-roberta"),
    ],
)
def test_a_faulty_section_is_refused_by_name(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(section)


@pytest.mark.parametrize("held", ["", "  ", "with\nline feed", "schlüssel", "“quoted”"])
def test_a_key_that_is_none_is_an_error_without_the_key(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", held)
    with pytest.raises(OracleError, match="environment variable OPENAI_API_KEY") as caught:
        build_oracle(ADAPTER.validate_python({"kind": "moderation"}))
    assert not held.strip() or held.strip() not in str(caught.value)


def test_no_variable_named_is_no_key_sent(local_service: Any) -> None:
    local_service.answer = lambda asked: {"s": 1}
    oracle = EndpointOracle(local_service.url, "{output}", "s", "satisfied")
    oracle.score([""], ["a"])
    oracle.close()
    assert "Authorization" not in local_service.asked[0].headers
    with pytest.raises(OracleError, match="must be the name of an environment variable") as caught:
        EndpointOracle(local_service.url, "{output}", "s", "satisfied", key_variable=SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"preset": "toxigen-roberta"}, ("tomh/toxigen_roberta", "LABEL_1", False)),
        ({"preset": "multilingual-toxic-xlm-roberta"}, ("unitary/multilingual-toxic-xlm-roberta", "toxicity", True)),
        ({"preset": "toxic-bert", "label": "threat", "model": "copy"}, ("copy", "threat", True)),
        ({"model": "own"}, ("own", "toxic", None)),
        ({"model": "own", "multi_label": True, "label": "rude"}, ("own", "rude", True)),
    ],
)
def test_a_preset_says_what_is_left_out(
    section: dict[str, Any], expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def classifier(**given: Any) -> SimpleNamespace:
        seen.update(given)
        return SimpleNamespace()

    monkeypatch.setattr("adhere.oracles.classifier.ClassifierOracle", classifier)
    config = ADAPTER.validate_python({"kind": "classifier", **section})
    build_oracle(config)
    build_oracle(ADAPTER.validate_python(config.model_dump()))  # as a run folder keeps it
    assert (seen["model"], seen["label"], seen["multi_label"]) == expected
    assert not {"preset", "cache", "kind"} & seen.keys()


def test_labels_that_are_said_to_be_independent_are(tmp_path: Path) -> None:
    """A softmax over them would make each as small as there are many."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=8).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=8, id2label={n: f"L{n}" for n in range(16)}, label2id={f"L{n}": n for n in range(16)},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    oracles = [ClassifierOracle(tmp_path, label="L3", soft=True, multi_label=stated) for stated in (None, False, True)]
    assumed, excluding, independent = (oracle.score([""], ["a"])[0] for oracle in oracles)
    assert assumed == excluding != independent
    assert oracles[0].version != oracles[2].version
