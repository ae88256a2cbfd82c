"""A chat endpoint as referee, against a real server on this machine."""

from __future__ import annotations

from typing import Any

import pytest

from adhere.errors import OracleError, RecipeError
from adhere.evaluation.chat_referee import KEY, ChatReferee
from adhere.oracles.remote_config import LimitsConfig

QUICK = LimitsConfig(attempts=1, concurrency=2, timeout=5)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY, "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def _chat(content: object) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def _said(asked: Any) -> str:
    return str(asked.body["messages"][0]["content"])


def test_answers_come_in_the_order_of_the_questions(local_service: Any) -> None:
    local_service.answer = lambda asked: _chat("A" if "first" in _said(asked) else "B.")
    referee = ChatReferee("judge-1", f"{local_service.url}/v1", QUICK)
    told: list[tuple[int, int]] = []
    asked = ["second"] * 5 + ["first"]
    assert referee.answers(asked, ("A", "B"), lambda d, t: told.append((d, t))) == ["B"] * 5 + ["A"]
    assert told[-1] == (6, 6)
    request = local_service.asked[0]
    assert request.path == "/v1/chat/completions"
    assert (request.body["model"], request.body["temperature"]) == ("judge-1", 0)
    assert "Answer with A or B alone." in _said(request)
    assert "Authorization" not in request.headers
    assert referee.notes == []


def test_a_reply_that_is_no_answer_and_a_question_without_a_reply_are_none(local_service: Any) -> None:
    def answer(asked: Any) -> Any:
        if "broken" in _said(asked):
            return local_service.reply(status=500)
        return {"no": "choices"} if "form" in _said(asked) else _chat(None if "null" in _said(asked) else "Neither")

    local_service.answer = answer
    referee = ChatReferee("judge", local_service.url, QUICK)
    assert referee.answers(["fine", "broken", "form", "null"], ("A", "B")) == [None] * 4
    assert "left 2 of 4 questions unanswered" in referee.notes[0]
    assert "1 × 500 Internal Server Error" in referee.notes[0]


def test_an_endpoint_that_is_down_is_not_asked_on_and_on(local_service: Any) -> None:
    local_service.answer = lambda asked: local_service.reply(status=503)
    referee = ChatReferee("judge", local_service.url, QUICK)
    assert referee.answers(["q"] * 50, ("A", "B")) == [None] * 50
    assert len(local_service.asked) < 15
    assert "had stopped answering" in referee.notes[0]


def test_the_first_question_shows_what_is_wrong(local_service: Any) -> None:
    local_service.answer = lambda asked: _chat("A")
    ChatReferee("judge", local_service.url, QUICK).check()
    local_service.answer = lambda asked: local_service.reply(status=401, body={"error": {"message": "bad key"}})
    with pytest.raises(OracleError, match="401"):
        ChatReferee("judge", local_service.url, QUICK).check()
    with pytest.raises(OracleError, match=r"gave no answer to a first question \(no connection\)"):
        ChatReferee("judge", "http://127.0.0.1:9", QUICK).check()


def test_keys_come_from_the_environment_and_openais_goes_to_openai_alone(
    local_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_service.answer = lambda asked: _chat("A")
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-others")
    ChatReferee("judge", local_service.url, QUICK).check()
    monkeypatch.setenv(KEY, "for-this-one")
    ChatReferee("judge", local_service.url, QUICK).check()
    assert [asked.headers.get("Authorization") for asked in local_service.asked] == [None, "Bearer for-this-one"]


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", "https://user:secret@host/v1", "https://host/v1?key=1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RecipeError, match="needs an address"):
        ChatReferee("judge", url)
