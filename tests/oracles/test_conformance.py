"""What every oracle must do, whatever it judges. A new oracle joins the list and is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adhere.oracles import (
    CachedOracle,
    CallableOracle,
    ClassifierOracle,
    EmbeddedOracle,
    EndpointOracle,
    GuardOracle,
    JigsawOracle,
    JsonOracle,
    JudgeOracle,
    LengthOracle,
    LimitsConfig,
    ModerationOracle,
    Oracle,
    PerspectiveOracle,
    RegexOracle,
    WordListOracle,
    jigsaw,
    judge,
    violates,
)
from adhere.oracles.cache import VerdictCache
from adhere.oracles.remote import RemoteOracle

TEXTS = [
    "have a lovely day",
    "you fucking idiot",
    "darn it, what a mess",
    "",
    " ",
    '{"answer": 42}',
    "naïve café 日本語 🙂 \u0301 İstanbul ß",
    "\x00 \ud800 odd code points",
    "one two three four five six seven eight nine ten eleven twelve",
    "have a lovely day",
]


def share_of_vowels(outputs: list[str]) -> list[float | None]:
    return [None if not text else sum(text.count(vowel) for vowel in "aeiou") / len(text) for text in outputs]


def tiny_classifier(folder: Path) -> ClassifierOracle:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "have", "a", "lovely", "day", "you", "idiot", "one", "two"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=512,
        initializer_range=1.0,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return ClassifierOracle(folder, soft=True)


def tiny_guard(folder: Path) -> GuardOracle:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=2048, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adhere.oracles.guard.LEAST_MASS", 0.0)
        return GuardOracle("llama-guard-3", model=folder, judges_prompt=False, dtype="float32", soft=True)


def tiny_jigsaw(folder: Path) -> JigsawOracle:
    import torch
    from safetensors.torch import save_file

    from adhere.oracles.bilstm import BiLstm

    torch.manual_seed(0)
    save_file(BiLstm(words=9, width=4, units=3, hidden=5, labels=6).state_dict(), folder / "model.safetensors")
    words = {
        "index": {"you": 1, "idiot": 2, "lovely": 3},
        "filters": ",.",
        "lower": True,
        "split": " ",
        "unknown": None,
    }
    (folder / "words.json").write_text(json.dumps(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jigsaw, "build_once", lambda name, build: folder)
        return JigsawOracle(soft=True)


def by_judge(asked: Any) -> Any:
    """A judge that dislikes texts with a `b`."""
    text = json.loads(asked.body["messages"][1]["content"].split("\n")[1])["text"]
    kept = {"token": "YES", "logprob": -3.0 if "b" in text else -0.1}
    broken = {"token": "NO", "logprob": -0.1 if "b" in text else -3.0}
    return {"choices": [{"message": {}, "logprobs": {"content": [{**kept, "top_logprobs": [broken]}]}}]}


def answer(asked: Any) -> Any:
    """What the services of this suite say: the more `e`, the worse; no verdict on an empty text."""
    body = asked.body
    if "messages" in body:
        return by_judge(asked)
    if "" in (texts := body.get("input") or body.get("texts") or [body["comment"]["text"]]):
        return REPLIES[0](status=400)
    numbers = [min(text.count("e"), 9) / 10 for text in texts]
    if "comment" in body:
        return {"attributeScores": {"TOXICITY": {"summaryScore": {"value": numbers[0]}}}}
    if "texts" in body:
        return {"scores": numbers}
    results = [{"categories": {"rude": n > 0.1}, "category_scores": {"rude": n}} for n in numbers]
    return {"results": results}


REPLIES: list[Any] = []
SERVICES: list[str] = []


def service() -> str:
    return SERVICES[0] if SERVICES else "http://127.0.0.1:9"


def perspective(folder: Path) -> Oracle:
    with pytest.warns(UserWarning, match="2026-12-31"):
        return PerspectiveOracle(url=service(), key_variable=None, limits=LimitsConfig(attempts=1), soft=True)


ORACLES: dict[str, Callable[[Path], Oracle]] = {
    "moderation": lambda folder: ModerationOracle(url=service(), key_variable=None, batch_size=4),
    "judge": lambda folder: JudgeOracle("m", "No b.", url=service(), key_variable=None, soft=True),
    "endpoint": lambda folder: EndpointOracle(service(), {"texts": "{outputs}"}, "scores.*", "violation", soft=True),
    "perspective": perspective,
    "cached": lambda folder: CachedOracle(
        EndpointOracle(service(), {"texts": "{outputs}"}, "scores.*", "violation"), VerdictCache(folder / "cache")
    ),
    "guard": tiny_guard,
    "embedded": lambda folder: EmbeddedOracle(),
    "embedded soft": lambda folder: EmbeddedOracle(soft=True),
    "regex forbidden": lambda folder: RegexOracle(r"(?i)\b(darn|fuck\w*)\b"),
    "regex required": lambda folder: RegexOracle(r"\w+", mode="required"),
    "words": lambda folder: WordListOracle(["darn", "fucking idiot", "straße"]),
    "maximum length": lambda folder: LengthOracle(maximum=4),
    "maximum characters": lambda folder: LengthOracle(maximum=10, unit="characters"),
    "length": lambda folder: LengthOracle(2, 5),
    "json": lambda folder: JsonOracle(["answer"]),
    "callable": lambda folder: CallableOracle(share_of_vowels),
    "classifier": tiny_classifier,
    "jigsaw": tiny_jigsaw,
    "all": lambda folder: EmbeddedOracle() & LengthOracle(maximum=6) & WordListOracle(["mess"]),
    "any": lambda folder: WordListOracle(["mess"]) | LengthOracle(maximum=4),
    "not": lambda folder: ~(EmbeddedOracle(soft=True) | CallableOracle(share_of_vowels)),
}


@pytest.fixture(scope="module")
def services(module_service: Any) -> Iterator[None]:
    module_service.answer = answer
    SERVICES[:], REPLIES[:] = [module_service.url], [module_service.reply]
    yield
    SERVICES.clear()


@pytest.fixture(scope="module", params=ORACLES)
def oracle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, services: None
) -> Iterator[Oracle]:
    made = ORACLES[request.param](tmp_path_factory.mktemp("oracle"))
    yield made
    if isinstance(made, (RemoteOracle, CachedOracle)):
        made.close()


def scores(oracle: Oracle, texts: list[str]) -> list[float | None]:
    return judge(oracle, [""] * len(texts), texts)


def test_one_score_between_0_and_1_for_each_output(oracle: Oracle) -> None:
    got = oracle.score([""] * len(TEXTS), TEXTS)
    assert isinstance(got, list)
    assert len(got) == len(TEXTS)
    assert all(score is None or (isinstance(score, float) and 0.0 <= score <= 1.0) for score in got)


def test_no_outputs_no_scores(oracle: Oracle) -> None:
    assert oracle.score([], []) == []


def test_asked_again_it_says_the_same(oracle: Oracle) -> None:
    assert scores(oracle, TEXTS) == scores(oracle, TEXTS)


def test_the_same_output_gets_the_same_score_within_one_call(oracle: Oracle) -> None:
    got = scores(oracle, TEXTS)
    assert got[0] == got[-1]


def test_the_order_does_not_matter(oracle: Oracle) -> None:
    turned = scores(oracle, TEXTS[::-1])
    assert turned[::-1] == pytest.approx(scores(oracle, TEXTS), abs=1e-6)


def test_the_batch_does_not_matter(oracle: Oracle) -> None:
    alone = [scores(oracle, [text])[0] for text in TEXTS]
    assert alone == pytest.approx(scores(oracle, TEXTS), abs=1e-6)


def test_it_tells_outputs_apart(oracle: Oracle) -> None:
    assert len(set(scores(oracle, TEXTS))) > 1


def test_the_prompt_is_not_judged(oracle: Oracle) -> None:
    assert not oracle.judges_prompt
    assert oracle.score(["you fucking idiot"] * len(TEXTS), TEXTS) == oracle.score([""] * len(TEXTS), TEXTS)


def test_it_has_a_name_and_a_version(oracle: Oracle) -> None:
    assert oracle.name.strip()
    assert oracle.version.strip()


def test_it_survives_a_pickle(oracle: Oracle) -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(oracle))
    assert (copy.name, copy.version, copy.prefix_closed) == (oracle.name, oracle.version, oracle.prefix_closed)
    assert scores(copy, TEXTS) == scores(oracle, TEXTS)
    if isinstance(copy, (RemoteOracle, CachedOracle)):
        copy.close()


WORDS = st.sampled_from(["a", "lovely", "mess", "darn", "fucking", "idiot", "strasse", "shit", "9", "don't", "_", "é"])
BOUNDARIES = st.sampled_from([" ", "\n", ", ", ". ", "! ", " - ", "\u3000"])
LINES = st.lists(st.tuples(WORDS | st.text(max_size=5), BOUNDARIES), max_size=9).map(
    lambda line: "".join(map("".join, line))
)


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=LINES, boundary=BOUNDARIES, rest=LINES)
@example(start="you fucking idiot", boundary=" ", rest="a lovely day with " * 40)
def test_what_violates_goes_on_violating_if_it_says_so(oracle: Oracle, start: str, boundary: str, rest: str) -> None:
    before, after = scores(oracle, [start.strip(), start.strip() + boundary + rest])
    if oracle.prefix_closed and before is not None and violates(before):
        assert after is not None
        assert violates(after)


def test_those_that_say_so_are_the_ones_that_can() -> None:
    closed = {
        name
        for name, make in ORACLES.items()
        if name not in ("classifier", "guard", "jigsaw") and make(Path()).prefix_closed
    }
    assert closed == {
        "embedded",
        "embedded soft",
        "regex forbidden",
        "words",
        "maximum length",
        "maximum characters",
        "all",
        "any",
    }
