"""What moderation services, JSON endpoints and Perspective are sent, and what is made of their answers."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adhere.errors import OracleError
from adhere.oracles import (
    CachedOracle,
    EndpointOracle,
    LimitsConfig,
    ModerationOracle,
    Oracle,
    PerspectiveOracle,
    PriceConfig,
    judge,
    line,
)
from adhere.oracles.cache import VerdictCache
from adhere.oracles.pace import Pace

ONCE = LimitsConfig(attempts=1)


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Takes an oracle and hands it back; closes it in the end."""
    made: list[Any] = []

    def keep(oracle: Any) -> Any:
        made.append(oracle)
        return oracle

    yield keep
    for oracle in made:
        oracle.close()


def scores(oracle: Oracle, *texts: str) -> list[float | None]:
    return judge(oracle, [""] * len(texts), texts)


def moderated(asked: Any) -> Any:
    """`bad` is hateful, `rough` a little violent, by the service's own lights no violation."""
    numbers = {"bad": (0.9, 0.2), "rough": (0.1, 0.6)}
    results = []
    for text in asked.body["input"]:
        hate, violence = numbers.get(text, (0.01, 0.02))
        results.append(
            {
                "flagged": hate > 0.5,
                "categories": {"hate": hate > 0.5, "violence": False},
                "category_scores": {"hate": hate, "violence": violence},
            }
        )
    return {"id": "modr-1", "model": "m", "results": results}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, 0.0, 1.0]),
        ({"threshold": 0.5}, [1.0, 0.0, 0.0]),
        ({"threshold": 0.95}, [1.0, 1.0, 1.0]),
        ({"soft": True}, [0.98, 0.1, 0.4]),
        ({"categories": ["violence"]}, [1.0, 1.0, 1.0]),
        ({"categories": ["violence"], "soft": True}, [0.98, 0.8, 0.4]),
    ],
)
def test_moderation_takes_the_service_at_its_word_or_its_scores(
    settings: dict[str, Any], expected: list[float], local_service: Any, closing: Callable[[Any], Any]
) -> None:
    local_service.answer = moderated
    oracle = closing(ModerationOracle(url=local_service.url, key_variable=None, limits=ONCE, **settings))
    assert scores(oracle, "fine", "bad", "rough") == pytest.approx(expected)


def test_moderation_is_asked_in_batches_and_about_each_text_once(
    local_service: Any, closing: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    local_service.answer = moderated
    oracle = closing(ModerationOracle("some-model", url=local_service.url, batch_size=2, limits=ONCE))
    assert scores(oracle, "a", "bad", "b", "a", "bad") == [1.0, 0.0, 1.0, 1.0, 0.0]
    assert sorted(asked.body["input"] for asked in local_service.asked) == [["a", "bad"], ["b"]]
    assert {asked.body["model"] for asked in local_service.asked} == {"some-model"}
    assert {asked.headers["Authorization"] for asked in local_service.asked} == {"Bearer sk-test"}


@pytest.mark.parametrize(
    "result",
    [
        {"categories": {"hate": False}, "category_scores": {}},
        {"categories": {"hate": False}, "category_scores": {"hate": 2}},
        {"categories": {}, "category_scores": {"hate": 0.1}},
        {"categories": {"hate": "no"}, "category_scores": {"hate": 0.1}},
        {"flagged": False},
        None,
    ],
)
def test_a_moderation_that_says_too_little_is_no_verdict(
    result: Any, local_service: Any, closing: Callable[[Any], Any]
) -> None:
    local_service.answer = lambda asked: {"results": [result]}
    oracle = closing(ModerationOracle(url=local_service.url, key_variable=None, limits=ONCE))
    assert scores(oracle, "text") == [None]


def test_an_endpoint_gets_the_request_it_wants(local_service: Any, closing: Callable[[Any], Any]) -> None:
    local_service.answer = lambda asked: {"out": [{"p": 0.25}]}
    request = {"q": "Q: {prompt}\nA: {output}", "n": [1, {"x": "{output}"}], "flag": True, "{output}": None}
    oracle = closing(
        EndpointOracle(
            local_service.url + "/v2", request, "out.0.p", "violation", soft=True, headers={"X-Team": "a"}, limits=ONCE
        )
    )
    assert oracle.judges_prompt
    assert judge(oracle, ["the {output}"], ['say "{prompt}"']) == [0.75]
    (asked,) = local_service.asked
    assert asked.path == "/v2"
    assert asked.headers["X-Team"] == "a"
    # What is filled in is not filled in again, and keys are left alone.
    text = 'say "{prompt}"'
    assert asked.body == {"q": f"Q: the {{output}}\nA: {text}", "n": [1, {"x": text}], "flag": True, "{output}": None}


def test_an_endpoint_may_take_lists(
    local_service: Any, closing: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    local_service.answer = lambda asked: {"r": [{"s": {"ok": float(t != "bad")}} for t in asked.body["texts"]]}
    oracle = closing(
        EndpointOracle(
            local_service.url,
            {"texts": "{outputs}"},
            "r.*.s.ok",
            "satisfied",
            batch_size=2,
            limits=ONCE,
            key_variable="MY_KEY",
            key_header="X-Key",
            key_prefix="",
        )
    )
    assert scores(oracle, "a", "bad", "b") == [1.0, 0.0, 1.0]
    assert sorted(asked.body["texts"] for asked in local_service.asked) == [["a", "bad"], ["b"]]
    assert local_service.asked[0].headers["X-Key"] == "k"


@pytest.mark.parametrize(
    ("request_", "path", "message"),
    [
        ({"text": "{text}"}, "s", "request holds neither {output} nor"),
        ({"text": "x {outputs} y"}, "s", "request holds neither {output} nor"),
        ({"a": "{output}", "b": "{outputs}"}, "s", "for one text, or for a list"),
        ({"a": "{output}"}, "r.*.s", r"score_path must have no \*.*got 'r\.\*\.s'"),
        ({"a": "{outputs}"}, "r.s", r"score_path must have \* in it once"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_is_refused(request_: Any, path: str, message: str) -> None:
    with pytest.raises(OracleError, match=message):
        EndpointOracle("http://127.0.0.1:9", request_, path, "satisfied")


def test_perspective_says_that_it_ends_and_keeps_the_key_out_of_the_address(
    local_service: Any, closing: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSPECTIVE_API_KEY", "AIza-secret")
    local_service.answer = lambda asked: {
        "attributeScores": {"INSULT": {"summaryScore": {"value": 0.8, "type": "PROBABILITY"}}}
    }
    limits = LimitsConfig(attempts=1)
    with pytest.warns(UserWarning, match=r"^oracle 'perspective INSULT': .* legacy service that ends on 2026-12-31"):
        oracle = closing(PerspectiveOracle("INSULT", url=local_service.url + "/analyze", limits=limits, soft=True))
    assert scores(oracle, "you fool") == pytest.approx([0.2])
    (asked,) = local_service.asked
    assert asked.path == "/analyze"
    assert asked.headers["X-Goog-Api-Key"] == "AIza-secret"
    assert asked.body == {
        "comment": {"text": "you fool"},
        "requestedAttributes": {"INSULT": {}},
        "doNotStore": True,
        "languages": ["en"],
    }


def test_what_was_paid_for_is_kept_though_the_rest_fails(
    local_service: Any, closing: Callable[[Any], Any], tmp_path: Any
) -> None:
    """Each verdict is on disk before the next one comes."""

    def answer(asked: Any) -> Any:
        time.sleep(4 * line.MOMENT)  # so that each verdict is handed over by itself
        return {"s": 1.0}

    local_service.answer = answer
    cache = VerdictCache(tmp_path)
    limits = LimitsConfig(attempts=1, concurrency=1)
    oracle = EndpointOracle(local_service.url, {"t": "{output}"}, "s", "satisfied", limits=limits)
    cached = closing(CachedOracle(oracle, cache))

    class PowerCut(BaseException):
        pass

    kept = oracle.keep
    assert kept is not None

    def keep_two(pairs: Any, found: Any) -> None:
        kept(pairs, found)
        if cache.info().verdicts == 2:
            raise PowerCut

    oracle.keep = keep_two
    with pytest.raises(PowerCut):
        scores(cached, "a", "b", "c", "d")
    assert VerdictCache(tmp_path).info().verdicts == 2
    again = closing(CachedOracle(EndpointOracle(local_service.url, {"t": "{output}"}, "s", "satisfied"), cache))
    assert scores(again, "a", "b", "c", "d") == [1.0] * 4
    assert [asked.body["t"] for asked in local_service.asked[:3]] == ["a", "b", "c"]  # the last one was under way
    assert sorted(asked.body["t"] for asked in local_service.asked[3:]) == ["c", "d"]
    assert again.spending.calls_saved == 2


def test_a_price_a_call_is_counted_for_answers(local_service: Any, closing: Callable[[Any], Any]) -> None:
    local_service.answer = lambda asked: local_service.reply(status=500) if asked.number == 0 else {"s": 1}
    oracle = closing(
        EndpointOracle(
            local_service.url,
            "{output}",
            "s",
            "satisfied",
            price=PriceConfig(per_call=0.5),
            limits=LimitsConfig(concurrency=1, attempts=2),
        )
    )
    scores(oracle, "a", "b")
    assert (oracle.spending.calls_made, oracle.spending.answered, oracle.spending.money) == (3, 2, 1.0)


def test_an_oracle_may_be_asked_from_a_running_event_loop(local_service: Any, closing: Callable[[Any], Any]) -> None:
    """As in a notebook."""
    import asyncio

    local_service.answer = lambda asked: {"s": 1}
    oracle = closing(EndpointOracle(local_service.url, "{output}", "s", "satisfied", limits=ONCE))

    async def cell() -> list[float | None]:
        return scores(oracle, "a")

    assert asyncio.run(cell()) == [1.0]


def test_a_copy_opens_its_own_connections_and_closing_ends_the_thread(local_service: Any) -> None:
    local_service.answer = lambda asked: {"s": 1}
    oracle = EndpointOracle(local_service.url, "{output}", "s", "satisfied", limits=ONCE)
    scores(oracle, "a")
    copy = pickle.loads(pickle.dumps(oracle))
    assert scores(copy, "b") == [1.0]
    for each in (oracle, copy):
        each.close()
    assert "adhere-oracle" not in {thread.name for thread in threading.enumerate()}
    assert scores(oracle, "c") == [1.0]
    oracle.close()


def test_turns_are_spread_evenly() -> None:
    pace, waits = Pace(60), []
    for now in (0.0, 0.0, 0.5, 9.0):
        waits.append(pace.wait(now))
        pace.take(1, now)
    assert waits == [0.0, 1.0, 1.5, 0.0]
    pace.correct(10)
    assert pace.wait(9.0) == pace.wait(9.0) == 11.0
    free = Pace(None)
    free.take(1e9, 0.0)
    assert free.wait(0.0) == 0.0
