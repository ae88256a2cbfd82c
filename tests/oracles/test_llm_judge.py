"""What a judging model says, and what is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adhere.errors import OracleError
from adhere.oracles import JudgeOracle, LimitsConfig, PriceConfig, judge

MakeJudge = Callable[..., JudgeOracle]


@pytest.fixture
def make_judge(local_service: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeJudge]:
    made: list[JudgeOracle] = []

    def make(**settings: Any) -> JudgeOracle:
        given = {"rubric": "The text is polite.", "url": local_service.url, "key_variable": None, "soft": True}
        oracle = JudgeOracle("big-model", **{**given, "limits": LimitsConfig(attempts=1, concurrency=1), **settings})
        made.append(oracle)
        return oracle

    yield make
    for oracle in made:
        oracle.close()


def said(tokens: dict[str, float], first: str | None = None) -> dict[str, Any]:
    """An answer of one word with its alternatives and their probabilities."""
    alternatives = [{"token": token, "logprob": math.log(p)} for token, p in tokens.items()]
    chosen = next((a for a in alternatives if a["token"] == first), alternatives[0])
    content = [{**chosen, "top_logprobs": alternatives}]
    return {"choices": [{"message": {"content": chosen["token"]}, "logprobs": {"content": content}}]}


def wrote(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "logprobs": None}]}


def score(oracle: JudgeOracle, text: str = "hello", prompt: str = "") -> float | None:
    return judge(oracle, [prompt], [text])[0]


def test_the_score_is_the_share_of_yes_over_all_spellings(make_judge: MakeJudge, local_service: Any) -> None:
    local_service.answer = lambda asked: said({"YES": 0.4, " yes": 0.2, "NO": 0.1, "No.": 0.1, "Maybe": 0.2})
    assert score(make_judge()) == pytest.approx(0.75)
    assert score(make_judge(soft=False)) == 1.0
    assert score(make_judge(soft=False, threshold=0.2)) == 0.0


def test_the_chosen_word_counts_once_whether_it_is_listed_or_not(make_judge: MakeJudge, local_service: Any) -> None:
    answer = said({"YES": 0.6, "NO": 0.2})
    local_service.answer = lambda asked: answer
    listed = score(make_judge())
    del answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]
    assert score(make_judge()) == pytest.approx(listed) == pytest.approx(0.75)


def test_blank_tokens_before_the_verdict_are_passed_over(make_judge: MakeJudge, local_service: Any) -> None:
    answer = said({"NO": 0.9, "YES": 0.1})
    answer["choices"][0]["logprobs"]["content"].insert(0, {"token": "\n\n", "logprob": 0.0, "top_logprobs": []})
    local_service.answer = lambda asked: answer
    assert score(make_judge()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "answer",
    [
        said({"I": 0.9, "YES": 0.05}),
        said({"SAFE": 1.0}),
        said({"Not": 0.6, "NO": 0.3}),
        said({" ": 1.0}),
        wrote("NO WAY"),
    ],
)
def test_a_judge_that_answers_neither_is_counted_apart(answer: Any, make_judge: MakeJudge, local_service: Any) -> None:
    local_service.answer = lambda asked: answer
    oracle = make_judge()
    assert score(oracle) is None
    assert "1 × a verdict that is neither YES nor NO" in oracle.trouble()
    assert oracle.spending.no_verdict == 1


def test_where_there_are_no_log_probabilities_the_verdict_is_json(make_judge: MakeJudge, local_service: Any) -> None:
    local_service.answer = lambda asked: (
        wrote("YES") if "logprobs" in asked.body else wrote('{"verdict": "NO", "probability": 0.2}')
    )
    oracle = make_judge()
    assert [score(oracle, text) for text in ("one", "two")] == pytest.approx([0.2, 0.2])
    bodies = [asked.body for asked in local_service.asked]
    assert ["logprobs" in body for body in bodies] == [True, False, False]  # found out once
    schema = bodies[1]["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["verdict", "probability"]


def test_a_service_that_refuses_to_give_log_probabilities_is_asked_for_json(
    make_judge: MakeJudge, local_service: Any
) -> None:
    refused = local_service.reply(status=400, body={"error": {"message": "logprobs is not supported"}})
    local_service.answer = lambda asked: (
        refused if "logprobs" in asked.body else wrote('{"verdict": "YES", "probability": 0.9}')
    )
    assert score(make_judge()) == pytest.approx(0.9)
    assert score(make_judge(method="logprobs")) is None


def test_one_answer_without_log_probabilities_does_not_change_how_the_rest_is_judged(
    make_judge: MakeJudge, local_service: Any
) -> None:
    """Such as one that a filter stopped: verdicts of two kinds must not be mixed."""
    local_service.answer = lambda asked: wrote("") if asked.number == 1 else said({"YES": 0.75, "NO": 0.25})
    oracle = make_judge()
    assert [score(oracle, text) for text in ("one", "two", "three")] == [0.75, None, 0.75]
    assert all("logprobs" in asked.body for asked in local_service.asked)
    assert "1 × an answer without log-probabilities" in oracle.trouble()


@pytest.mark.parametrize("above", [0.5, 5, 1e9])
def test_a_log_probability_above_0_is_none(above: float, make_judge: MakeJudge, local_service: Any) -> None:
    answer = said({"YES": 1.0})
    answer["choices"][0]["logprobs"]["content"][0]["logprob"] = above
    answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = []
    local_service.answer = lambda asked: answer
    assert score(make_judge()) is None


@pytest.mark.parametrize(
    "text",
    [
        "YES",
        '{"verdict": "YES"}',
        '{"verdict": "YES", "probability": 0.1}',
        '{"verdict": "MAYBE", "probability": 0.5}',
        '{"verdict": "YES", "probability": 7}',
        '{"verdict": "YES", "probability": "0.9"}',
        '{"verdict": "YES", "probability": NaN}',
        '{"verdict": "YES", "probability": 0.9, "note": "?"}',
        '[{"verdict": "YES", "probability": 0.9}]',
        'Sure! {"verdict": "YES", "probability": 0.9}',
        "",
    ],
)
def test_json_that_is_not_as_asked_is_no_verdict(text: str, make_judge: MakeJudge, local_service: Any) -> None:
    local_service.answer = lambda asked: wrote(text)
    assert score(make_judge(method="json")) is None


def test_the_rule_is_in_the_system_message_and_the_text_is_not(make_judge: MakeJudge, local_service: Any) -> None:
    local_service.answer = lambda asked: said({"YES": 1.0})
    score(make_judge(), "the text itself", "the prompt itself")
    system, user = local_service.asked[0].body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert "The text is polite." in system["content"]
    assert "the text itself" not in system["content"]
    assert json.loads(user["content"].split("\n")[1]) == {"text": "the text itself"}
    assert "the prompt itself" not in json.dumps(local_service.asked[0].body)
    score(make_judge(judges_prompt=True), "the text itself", "the prompt itself")
    user = local_service.asked[1].body["messages"][1]
    assert json.loads(user["content"].split("\n")[1]) == {"prompt": "the prompt itself", "text": "the text itself"}


def test_keys_of_the_request_are_added_and_taken_out(make_judge: MakeJudge, local_service: Any) -> None:
    local_service.answer = lambda asked: said({"YES": 1.0})
    score(make_judge(request={"max_tokens": None, "max_completion_tokens": 5, "seed": 3}))
    body = local_service.asked[0].body
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["seed"], body["temperature"]) == (5, 3, 0)


def test_tokens_and_money_are_counted(make_judge: MakeJudge, local_service: Any) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 2}
    local_service.answer = lambda asked: {**said({"YES": 1.0}), "usage": usage}
    price = PriceConfig(per_call=0.01, per_million_input_tokens=5, per_million_output_tokens=50)
    oracle = make_judge(price=price)
    for text in ("one", "two"):
        score(oracle, text)
    assert (oracle.spending.input_tokens, oracle.spending.output_tokens) == (2000, 4)
    assert oracle.spending.money == pytest.approx(2 * (0.01 + 0.005 + 0.0001))


def test_the_version_tells_rules_apart_but_not_how_the_service_is_asked(make_judge: MakeJudge) -> None:
    version = make_judge().version
    assert make_judge(limits=LimitsConfig(concurrency=99), price=PriceConfig(per_call=1)).version == version
    for changed in ({"rubric": "Other."}, {"judges_prompt": True}, {"soft": False}, {"request": {"seed": 1}}):
        assert make_judge(**changed).version != version


def test_an_empty_rule_is_refused(make_judge: MakeJudge) -> None:
    with pytest.raises(OracleError, match="the rubric is empty; write the rule"):
        make_judge(rubric=" \n")
