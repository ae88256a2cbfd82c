"""Missing verdicts are asked for again, by evaluation and labelling too; what was spent is summed up over all parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from adhere.evaluation.evaluate import judged
from adhere.oracles import CallableOracle, LengthOracle, Oracle, judge
from adhere.oracles.again import judge_again
from adhere.oracles.config import CallableConfig
from adhere.oracles.spending import Spending, added, spending_of
from adhere.recipe.label import Labelled, label_file
from adhere.records import Sample


class Late(Oracle):
    """Has a verdict on `late` from its third call on, and never on `never`."""

    name, version = "late", "1"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.spending = Spending()

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.calls.append(list(outputs))
        self.spending.calls_made += len(outputs)
        unknown = {"never"} | ({"late"} if len(self.calls) < 3 else set())
        return [None if output in unknown else 1.0 for output in outputs]


def test_what_is_missing_is_asked_for_and_nothing_else() -> None:
    late, texts = Late(), ["a", "late", "never", "b"]
    first = judge(late, [""] * 4, texts)
    assert first == [1.0, None, None, 1.0]
    assert judge_again(late, [""] * 4, texts, first) == [1.0, 1.0, None, 1.0]
    assert late.calls == [texts, ["late", "never"], ["late", "never"]]
    assert judge_again(late, [""] * 2, ["x", "y"], [0.0, 1.0]) == [0.0, 1.0]
    assert len(late.calls) == 3


def test_evaluation_asks_again() -> None:
    samples = [Sample(i, 0, "p", text, (1,), (2,), True, 0.0) for i, text in enumerate(("a", "late", "never"))]
    found = judged(samples, {"late": (late := Late()), "length": LengthOracle(maximum=3)})
    assert [item.verdicts["late"].score for item in found] == [1.0, 1.0, None]
    assert len(late.calls) == 3


ASKED: list[int] = []


def forgetful(outputs: list[str]) -> list[float | None]:
    """Knows nothing the first time it is asked."""
    ASKED.append(len(outputs))
    return [None if len(ASKED) == 1 else 1.0 for _ in outputs]


def test_labelling_a_file_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ASKED.clear()
    monkeypatch.setattr(CallableConfig, "build", lambda self: CallableOracle(forgetful, version="1"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"output": text}) + "\n" for text in "abc"), encoding="utf-8")
    assert label_file(rows, CallableConfig(function="x:y"), tmp_path / "out.jsonl") == Labelled(3, 3, 0)
    assert [json.loads(line)["score"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [1.0] * 3
    assert ASKED == [3, 3]


def test_what_was_spent_is_summed_over_all_parts() -> None:
    one, two = Late(), Late()
    both = ~(one & LengthOracle(maximum=3)) | two
    before = spending_of(both)
    judge(both, [""] * 2, ["a", "b"])
    assert added(before, spending_of(both)) == {"calls_made": 4}
    two.spending.money += 0.25
    assert added(before, spending_of(both, LengthOracle(maximum=3))) == {"calls_made": 4, "money": 0.25}
    assert added(before, before) == {}
