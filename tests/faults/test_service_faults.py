"""A service that does everything wrong: nothing it does becomes a verdict, and what it gives in the end is not lost."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from adhere.errors import OracleError
from adhere.oracles import EndpointOracle, LimitsConfig, judge, retries, service
from adhere.oracles import spending as costs

MakeOracle = Callable[..., EndpointOracle]
TEXTS = ["good", "bad", "fine"]
SCORES = [1.0, 0.0, 1.0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)


@pytest.fixture
def make_oracle(local_service: Any) -> Iterator[MakeOracle]:
    """An oracle of one text a request, by a service that finds `bad` bad."""
    local_service.answer = good
    made: list[EndpointOracle] = []

    def make(batch: bool = False, **limits: Any) -> EndpointOracle:
        request, path = ({"texts": "{outputs}"}, "scores.*") if batch else ({"text": "{output}"}, "score")
        given = LimitsConfig(**{"concurrency": 2, "timeout": 2, "attempts": 3, **limits})
        oracle = EndpointOracle(local_service.url, request, path, "satisfied", limits=given, name="remote")
        made.append(oracle)
        return oracle

    yield make
    for oracle in made:
        oracle.close()


def good(asked: Any) -> Any:
    if "texts" in asked.body:
        return {"scores": [float(text != "bad") for text in asked.body["texts"]]}
    return {"score": float(asked.body["text"] != "bad")}


def scores(oracle: EndpointOracle, texts: list[str] = TEXTS) -> list[float | None]:
    return judge(oracle, [""] * len(texts), texts)


def reset(connection: socket.socket) -> None:
    """Close it with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def drip(connection: socket.socket) -> None:
    """A byte now and then, so that no single read takes long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    try:
        for _ in range(40):
            connection.sendall(b" ")
            time.sleep(0.02)
    except OSError:
        pass


def short(connection: socket.socket) -> None:
    """Half of what it announced."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"score": 1')


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "body": {"error": "slow down"}},
    "429 with a time to wait": {"status": 429, "headers": {"Retry-After": "0"}},
    "429 with nonsense as time": {"status": 429, "headers": {"Retry-After": "soon"}},
    "500": {"status": 500, "body": b"<html>oops</html>"},
    "503": {"status": 503},
    "529": {"status": 529},
    "reset": {"raw": reset},
    "closed at once": {"raw": lambda connection: None},
    "half an answer": {"raw": short},
    "not even HTTP": {"raw": no_http},
    "no JSON": {"body": b"Sorry, I cannot do that"},
    "JSON cut off": {"body": b'{"score": 1.'},
    "nothing": {"body": b""},
    "not UTF-8": {"body": b'{"score": "\xff\xfe"}'},
    "NaN": {"body": b'{"score": NaN}'},
    "infinity": {"body": b'{"score": 1e999}'},
    "minus infinity": {"body": b'{"score": -Infinity}'},
    "above 1": {"body": {"score": 1.7}},
    "below 0": {"body": {"score": -0.1}},
    "a string": {"body": {"score": "1"}},
    "a boolean": {"body": {"score": True}},
    "null": {"body": {"score": None}},
    "a list": {"body": [1.0]},
    "another key": {"body": {"result": 1.0}},
    "too deep": {"body": b'{"score":' + b"[" * 100_000},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_once_gets_its_verdict_at_the_next_attempt(
    fault: str, make_oracle: MakeOracle, local_service: Any
) -> None:
    broken = local_service.reply(**FAULTS[fault])
    local_service.answer = lambda asked: broken if asked.number < 2 else good(asked)
    oracle = make_oracle()
    assert scores(oracle) == SCORES
    assert len(local_service.asked) == len(TEXTS) + 2
    assert oracle.spending.calls_made == len(TEXTS) + 2
    assert oracle.spending.no_verdict == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_what_always_fails_is_no_verdict_and_is_told(fault: str, make_oracle: MakeOracle, local_service: Any) -> None:
    local_service.answer = lambda asked: local_service.reply(**FAULTS[fault])
    oracle = make_oracle(attempts=2)
    assert scores(oracle) == [None] * len(TEXTS)
    assert oracle.spending.no_verdict == len(TEXTS)
    assert "remote, asked at 127.0.0.1" in oracle.trouble()
    assert f"{len(TEXTS)} × " in oracle.trouble()


@pytest.mark.parametrize("numbers", [[1.0], [1.0, 1.0, 1.0, 1.0], []])
def test_an_answer_for_another_number_of_texts_is_none(
    numbers: list[float], make_oracle: MakeOracle, local_service: Any
) -> None:
    """Not even its beginning is taken: nobody knows which number belongs to which text."""
    local_service.answer = lambda asked: {"scores": numbers} if asked.number < 1 else good(asked)
    assert scores(make_oracle(batch=True)) == SCORES
    local_service.answer = lambda asked: {"scores": [*numbers, *numbers] if len(asked.body["texts"]) == 1 else numbers}
    oracle = make_oracle(batch=True, attempts=2)
    assert scores(oracle) == [None] * len(TEXTS)
    assert "another number of verdicts than texts" in oracle.trouble()


def test_a_slow_drip_is_cut_off_though_no_single_read_is_slow(make_oracle: MakeOracle, local_service: Any) -> None:
    local_service.answer = lambda asked: local_service.reply(raw=drip)
    oracle = make_oracle(timeout=0.15, attempts=1)
    start = time.monotonic()
    assert scores(oracle, ["one"]) == [None]
    assert time.monotonic() - start < 0.6
    assert "no whole answer in time" in oracle.trouble()


def test_a_huge_answer_is_not_read_to_its_end(
    make_oracle: MakeOracle, local_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LARGEST_ANSWER", 2**20)
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while sent < 1_000_000_000:
                sent += connection.send(b" " * 65536)
        except OSError:
            pass

    local_service.answer = lambda asked: local_service.reply(raw=flood)
    oracle = make_oracle()
    assert scores(oracle, ["one"]) == [None]
    assert sent < 100 * 2**20
    assert "more than 1 MiB" in oracle.trouble()


def test_an_answer_that_unpacks_to_more_than_it_may_is_not_unpacked_to_its_end(
    make_oracle: MakeOracle, local_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LARGEST_ANSWER", 2**20)
    bomb = gzip.compress(b" " * 64 * 2**20)
    local_service.answer = lambda asked: local_service.reply(body=bomb, headers={"Content-Encoding": "gzip"})
    oracle = make_oracle()
    tracemalloc.start()
    assert scores(oracle, ["one"]) == [None]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than 1 MiB" in oracle.trouble()
    assert most < 16 * 2**20
    packed = gzip.compress(b'{"score": 1.0}')
    local_service.answer = lambda asked: local_service.reply(body=packed, headers={"Content-Encoding": "gzip"})
    assert scores(oracle, ["two"]) == [1.0]


def test_a_redirection_is_not_followed(make_oracle: MakeOracle, local_service: Any) -> None:
    elsewhere = {"Location": f"{local_service.url}/elsewhere"}
    local_service.answer = lambda asked: local_service.reply(status=307, headers=elsewhere)
    with pytest.raises(OracleError, match=r"refuses: 307 Temporary Redirect.*not followed.*\(url\)"):
        scores(make_oracle())
    assert {asked.path for asked in local_service.asked} == {"/"}


def test_a_redirection_in_the_middle_of_a_run_is_no_verdict(make_oracle: MakeOracle, local_service: Any) -> None:
    elsewhere = {"Location": f"{local_service.url}/elsewhere"}
    oracle = make_oracle()
    assert scores(oracle) == SCORES
    local_service.answer = lambda asked: local_service.reply(status=302, headers=elsewhere)
    assert scores(oracle, ["other"]) == [None]
    assert {asked.path for asked in local_service.asked} == {"/"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_service_that_never_answered_and_refuses_stops_the_run_at_once(
    status: int, make_oracle: MakeOracle, local_service: Any
) -> None:
    body = {"error": {"message": "no such model: x"}}
    local_service.answer = lambda asked: local_service.reply(status=status, body=body)
    with pytest.raises(OracleError, match=rf"oracle 'remote': 127\.0\.0\.1:\d+ refuses: {status} .*no such model: x"):
        scores(make_oracle(), [f"text {n}" for n in range(100)])
    assert len(local_service.asked) <= 4


def test_a_text_that_the_service_will_not_judge_is_asked_about_once(
    make_oracle: MakeOracle, local_service: Any
) -> None:
    local_service.answer = lambda asked: (
        local_service.reply(status=400, body={"error": "content policy"})
        if asked.body["text"] == "bad"
        else good(asked)
    )
    oracle = make_oracle()
    assert scores(oracle) == [1.0, None, 1.0]
    assert len(local_service.asked) == len(TEXTS)
    assert "1 × 400 Bad Request" in oracle.trouble()


def test_a_text_that_is_refused_does_not_cost_its_neighbours_their_verdicts(
    make_oracle: MakeOracle, local_service: Any
) -> None:
    local_service.answer = lambda asked: (
        local_service.reply(status=413) if "poison" in asked.body["texts"] else good(asked)
    )
    texts = [f"text {n}" for n in range(9)]
    oracle = make_oracle(batch=True)
    assert scores(oracle, [*texts[:4], "poison", "bad", *texts[4:]]) == [1.0] * 4 + [None, 0.0] + [1.0] * 5


POISON: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "400": {"status": 400},
    "no number for it": {"body": {"scores": [1.0, None, 1.0]}},
    "NaN for it": {"body": b'{"scores": [1.0, NaN, 1.0]}'},
    "a reset": {"raw": reset},
}


@pytest.mark.parametrize("fault", POISON)
def test_a_text_that_breaks_its_batch_does_not_cost_its_neighbours_their_verdicts(
    fault: str, make_oracle: MakeOracle, local_service: Any
) -> None:
    local_service.answer = lambda asked: (
        local_service.reply(**POISON[fault]) if "poison" in asked.body["texts"] else good(asked)
    )
    texts = [f"text {n}" for n in range(9)]
    oracle = make_oracle(batch=True, attempts=2)
    assert scores(oracle, [*texts[:4], "poison", "bad", *texts[4:]]) == [1.0] * 4 + [None, 0.0] + [1.0] * 5
    assert oracle.spending.no_verdict == 1


def test_an_outage_does_not_take_every_half_of_every_batch_its_attempts(
    make_oracle: MakeOracle, local_service: Any
) -> None:
    local_service.answer = lambda asked: local_service.reply(status=500)
    oracle = make_oracle(batch=True, attempts=2)
    assert scores(oracle, [f"text {n}" for n in range(1000)]) == [None] * 1000
    assert len(local_service.asked) < 20


def test_a_service_that_asks_to_be_left_alone_is_left_alone(make_oracle: MakeOracle, local_service: Any) -> None:
    times: list[float] = []

    def answer(asked: Any) -> Any:
        times.append(time.monotonic())
        return local_service.reply(status=429, headers={"Retry-After": "0.3"}) if asked.number == 0 else good(asked)

    local_service.answer = answer
    assert scores(make_oracle(concurrency=1)) == SCORES
    assert times[1] - times[0] >= 0.29


def test_a_date_to_come_back_at_is_understood(make_oracle: MakeOracle, local_service: Any) -> None:
    past = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    local_service.answer = lambda asked: (
        local_service.reply(status=503, headers=past) if asked.number == 0 else good(asked)
    )
    start = time.monotonic()
    assert scores(make_oracle()) == SCORES
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "header", ["-5", "nan", "1e999", "", "Mon,", "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"]
)
def test_nonsense_as_a_time_to_wait_is_not_heeded(header: str, make_oracle: MakeOracle, local_service: Any) -> None:
    busy = local_service.reply(status=429, headers={"Retry-After": header})
    local_service.answer = lambda asked: busy if asked.number == 0 else good(asked)
    assert scores(make_oracle()) == SCORES


def test_what_waits_for_its_turn_leaves_the_service_alone_too(make_oracle: MakeOracle, local_service: Any) -> None:
    times: list[float] = []

    def answer(asked: Any) -> Any:
        times.append(time.monotonic())
        return local_service.reply(status=429, headers={"Retry-After": "0.8"}) if asked.number == 0 else good(asked)

    local_service.answer = answer
    assert scores(make_oracle(concurrency=3, requests_per_minute=150)) == SCORES  # one every 400 ms
    assert times[1] - times[0] >= 0.75


def test_who_wants_to_be_left_alone_longer_than_the_budget_is_not_waited_for(
    make_oracle: MakeOracle, local_service: Any
) -> None:
    local_service.answer = lambda asked: local_service.reply(status=429, headers={"Retry-After": "3600"})
    oracle = make_oracle(budget=5, concurrency=1)
    start = time.monotonic()
    assert scores(oracle) == [None] * 3
    assert time.monotonic() - start < 1
    assert len(local_service.asked) == 1


def test_the_budget_bounds_one_asking_altogether(make_oracle: MakeOracle, local_service: Any) -> None:
    def answer(asked: Any) -> Any:
        time.sleep(0.05)
        return good(asked)

    local_service.answer = answer
    oracle = make_oracle(budget=0.3, concurrency=1)
    start = time.monotonic()
    found = scores(oracle, [f"text {n}" for n in range(50)])
    assert time.monotonic() - start < 0.6
    assert 0 < sum(score is not None for score in found) < 10
    assert "limits.budget ran out" in oracle.trouble()
    local_service.answer = good
    assert scores(oracle) == SCORES  # each asking has its own


@pytest.mark.parametrize("limit", [{"requests_per_minute": 600}, {"tokens_per_minute": 3000}])
def test_what_the_budget_did_not_allow_has_used_up_nothing(
    limit: dict[str, float], make_oracle: MakeOracle, local_service: Any
) -> None:
    """Not even the turns of those that came too late: a later pass goes on at once."""
    oracle = make_oracle(budget=0.6, concurrency=8, **limit)
    told = [sum(score is not None for score in scores(oracle, [f"text {n}" for n in range(100)])) for _ in range(2)]
    assert min(told) >= 1
    assert "stopped answering" not in oracle.trouble()


def test_an_outage_does_not_take_every_text_all_its_attempts(make_oracle: MakeOracle, local_service: Any) -> None:
    local_service.answer = lambda asked: local_service.reply(status=500)
    oracle = make_oracle(attempts=2)
    assert scores(oracle, [f"text {n}" for n in range(200)]) == [None] * 200
    assert len(local_service.asked) < 20
    assert "not asked, since it had stopped answering" in oracle.trouble()
    local_service.answer = good
    assert scores(oracle) == SCORES


def test_why_a_service_refuses_everything_is_told_in_its_words(make_oracle: MakeOracle, local_service: Any) -> None:
    told = {"error": {"message": "Unsupported parameter: \x1b[2J'max_tokens'"}}
    local_service.answer = lambda asked: local_service.reply(
        status=400, body=json.dumps(told, ensure_ascii=False).encode()
    )
    oracle = make_oracle()
    assert scores(oracle) == [None] * 3
    assert oracle.trouble().endswith("'max_tokens'\"}})")
    assert "3 × 400 Bad Request (it said: " in oracle.trouble()
    local_service.answer = good
    scores(oracle)
    assert "it said" not in oracle.trouble()  # it does answer: what it says of one text is nobody's business


@pytest.mark.parametrize("body", [{"result": {"risk": 0.4}}, {"error": "no quota left"}, b"<p>maintenance</p>"])
def test_an_answer_that_cannot_be_read_is_shown_where_none_ever_could(
    body: Any, make_oracle: MakeOracle, local_service: Any
) -> None:
    """The path to the score is wrong, or an error comes with status 200."""
    local_service.answer = lambda asked: local_service.reply(body=body)
    oracle = make_oracle(attempts=1)
    assert scores(oracle) == [None] * 3
    said = body.decode() if isinstance(body, bytes) else json.dumps(body)
    assert oracle.trouble().endswith(f"(it said: {said})")


def test_nobody_there_is_no_verdict(make_oracle: MakeOracle) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    limits = LimitsConfig(attempts=1)
    oracle = EndpointOracle(f"http://127.0.0.1:{port}", "{output}", "score", "satisfied", limits=limits)
    assert scores(oracle) == [None] * 3
    assert "no connection" in oracle.trouble()
    oracle.close()


def test_three_calls_in_ten_fail_and_no_verdict_is_lost_or_made_up(make_oracle: MakeOracle, local_service: Any) -> None:
    kinds = [local_service.reply(**FAULTS[fault]) for fault in ("500", "reset", "NaN", "no JSON", "half an answer")]
    local_service.answer = lambda asked: kinds[asked.number % 5] if asked.number * 7 % 10 < 3 else good(asked)
    texts = ["bad" if n % 3 == 0 else f"text {n}" for n in range(150)]
    oracle = make_oracle(attempts=10, concurrency=8)
    assert scores(oracle, texts) == [float(text != "bad") for text in texts]
    needed = len(set(texts))
    assert oracle.spending.no_verdict == 0
    assert needed * 1.2 < oracle.spending.calls_made < needed * 1.7


def test_requests_under_way_at_once_are_bounded(make_oracle: MakeOracle, local_service: Any) -> None:
    under_way, most = 0, 0

    def answer(asked: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= 1
        return good(asked)

    local_service.answer = answer
    scores(make_oracle(concurrency=3), [f"text {n}" for n in range(20)])
    assert most == 3


def test_requests_a_minute_are_bounded(make_oracle: MakeOracle, local_service: Any) -> None:
    oracle = make_oracle(requests_per_minute=1200)  # one every 50 ms
    start = time.monotonic()
    assert scores(oracle, [f"text {n}" for n in range(7)]) == [1.0] * 7
    assert 0.29 < time.monotonic() - start < 0.7


def test_tokens_a_minute_are_bounded(make_oracle: MakeOracle, local_service: Any) -> None:
    local_service.answer = lambda asked: {**good(asked), "usage": {"prompt_tokens": 100, "completion_tokens": 0}}
    oracle = make_oracle(tokens_per_minute=60_000, concurrency=1)  # 100 tokens every 100 ms
    start = time.monotonic()
    scores(oracle, ["a", "b", "c", "d"])
    assert 0.29 < time.monotonic() - start < 0.8
    assert costs.spending_of(oracle).input_tokens == 400


def test_ctrl_c_stops_the_asking(make_oracle: MakeOracle, local_service: Any) -> None:
    def answer(asked: Any) -> Any:
        time.sleep(0.1)
        return good(asked)

    local_service.answer = answer
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    oracle = make_oracle()
    with pytest.raises(KeyboardInterrupt):
        scores(oracle, [f"text {n}" for n in range(100)])
    time.sleep(0.15)
    before = len(local_service.asked)
    time.sleep(0.25)
    assert len(local_service.asked) == before


def test_json_may_hold_anything_and_texts_arrive_as_they_are(make_oracle: MakeOracle, local_service: Any) -> None:
    texts = ['"}], "x": [{"', "\x00\x1b[2J", "naïve 日本語 🙂", "\ud800 half", "a" * 100_000]
    scores(make_oracle(), texts)
    sent = [asked.body["text"] for asked in local_service.asked]
    assert sorted(sent) == sorted([*texts[:3], "? half", texts[4]])
    assert json.loads(json.dumps(sent)) == sent
