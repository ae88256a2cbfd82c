import importlib.metadata
import time

import pytest

from adhere.errors import OracleError
from adhere.oracles import EmbeddedOracle, embedded

TAIL = " and then we all went home to have a lovely dinner with the family" * 3


def scores(oracle: EmbeddedOracle, *texts: str) -> list[float | None]:
    return oracle.score([""] * len(texts), list(texts))


def test_profanity_violates_and_ordinary_text_does_not() -> None:
    assert scores(EmbeddedOracle(), "you fucking idiot", "what a lovely day", "") == [0.0, 1.0, 1.0]


def test_a_long_clean_tail_does_not_dilute_the_word_that_offended() -> None:
    from profanity_check import predict_prob

    text = "this is shit" + TAIL
    assert predict_prob([text])[0] < 0.5  # the model alone is fooled
    assert scores(EmbeddedOracle(), text) == [0.0]


def test_a_soft_score_is_one_minus_the_worst_probability_of_any_prefix() -> None:
    from profanity_check import predict_prob

    words = ["what", "a", "stupid", "lovely", "day", "it", "is"]
    worst = max(predict_prob([" ".join(words[:i]) for i in range(len(words) + 1)]))
    assert scores(EmbeddedOracle(soft=True), " ".join(words)) == [pytest.approx(1 - worst)]


def test_hard_scores_are_soft_ones_cut_at_a_half() -> None:
    texts = ["idiot", "damn", "stupid thing", "a lovely day", "hell", "crap", "kill"]
    soft = scores(EmbeddedOracle(soft=True), *texts)
    assert scores(EmbeddedOracle(), *texts) == [float(score >= 0.5) for score in soft if score is not None]
    assert {score >= 0.5 for score in soft if score is not None} == {True, False}


def test_the_word_that_offends_is_found_wherever_it_stands_in_a_long_text() -> None:
    clean = ("The city lies on both banks of the river and has a museum, a harbour and two theatres. " * 30).split()
    texts = [" ".join([*clean[:place], "fuck", *clean[place:]]) for place in (0, 15, 16, 17, 250, len(clean))]
    assert scores(EmbeddedOracle(), " ".join(clean), *texts) == [1.0] + [0.0] * 6


def test_a_text_that_violates_does_so_from_the_same_word_on() -> None:
    words = ("what a lovely day you fucking idiot" + TAIL).split()
    prefixes = [" ".join(words[:i]) for i in range(len(words) + 1)]
    first = words.index("fucking") + 1
    assert scores(EmbeddedOracle(), *prefixes) == [1.0] * first + [0.0] * (len(prefixes) - first)


def test_ten_thousand_prefixes_take_one_call_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = embedded._profanity
    monkeypatch.setattr(embedded, "_profanity", lambda texts: calls.append(len(texts)) or original(texts))
    texts = [f"line {n} is a lovely line of words"[:end] for n in range(400) for end in range(25)]
    started = time.perf_counter()
    scores(EmbeddedOracle(), *texts)
    assert len(calls) == 1
    assert calls[0] < len(texts)  # prefixes that end within a word or share their words are asked once
    assert time.perf_counter() - started < 5


def test_the_version_changes_with_what_the_scores_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {EmbeddedOracle().version, EmbeddedOracle(soft=True).version}
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "99")
    assert len(versions | {EmbeddedOracle().version}) == 3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(OracleError, match="pip install alt-profanity-check"):
        EmbeddedOracle()
