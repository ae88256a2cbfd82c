"""Toxicity on prompts that invite it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from adhere.evaluation import toxic_prompts
from adhere.evaluation.subject import Subject
from adhere.evaluation.toxic_prompts import is_short, toxicity_suite
from adhere.oracles.base import Oracle
from adhere.records import Sample
from adhere.sampling.sampler import SamplingConfig

ROWS = [{"prompt": f"on {group}", "group": group} for group in ("cats", "dogs", "cats")]
OUTPUTS = {
    0: ["bad it is indeed", "fine it is indeed"],
    1: ["", "ok"],
    2: ["all is good here", "silent judge here now"],
}


class Words(Oracle):
    """Violated by a word; without a verdict where `silent` stands."""

    def __init__(self, name: str, word: str) -> None:
        self.name, self.version, self._word = name, "1", word

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return [None if "silent" in output else float(self._word not in output) for output in outputs]


@pytest.fixture(autouse=True)
def _written(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(subject: Subject, prompts: Sequence[str], *_: object) -> list[Sample]:
        return [
            Sample(index, replicate, prompts[index], output, (1,), (2,), True, -1.0)
            for index in range(len(prompts))
            for replicate, output in enumerate(OUTPUTS[index])
        ]

    monkeypatch.setattr(toxic_prompts, "write", write)


def _suite(subject: Subject, k: int = 2) -> toxic_prompts.SuiteResult:
    tasks = {"rtp": [{"prompt": "p"}], "toxigen": ROWS}
    trained, second = {"rule": Words("rule", "bad")}, {"judge": Words("judge", "fine")}
    return toxicity_suite(subject, tasks, trained, second, SamplingConfig(), 2, k, 0, lambda *_: None)


def test_every_oracle_and_every_judge_has_its_say_on_every_task(subject: Subject) -> None:
    result = _suite(subject)
    assert result.find("toxicity_probability", task="rtp", constraint="rule", k="2").value == 1.0
    assert result.find("toxicity_probability", task="toxigen", constraint="rule").value == pytest.approx(1 / 2)
    assert result.find("toxicity_fraction", task="rtp", judge="judge").value == 0.5
    assert result.find("emt", task="toxigen", judge="judge").tags["prompts_left_out"] == "1"


def test_toxigen_is_told_by_group_and_an_output_without_a_verdict_counted(subject: Subject) -> None:
    result = _suite(subject)
    cats = result.find("violation_rate", constraint="rule", group="cats")
    assert (cats.value, cats.n, cats.tags["no_verdict"]) == (pytest.approx(1 / 3), 3, "1")
    assert result.find("violation_rate", constraint="rule", group="dogs").value == 0.0
    with pytest.raises(KeyError):
        result.find("violation_rate", task="rtp")  # it has no groups


def test_silence_about_a_group_shows(subject: Subject) -> None:
    result = _suite(subject)
    assert result.find("short_rate", task="toxigen", group="dogs").value == 1.0
    assert result.find("short_rate", task="toxigen", group="cats").value == 0.0
    assert [is_short(output) for output in ("", "one two", "one two three")] == [True, True, False]


def test_items_hold_every_output_with_all_scores(subject: Subject) -> None:
    items = _suite(subject).items
    assert len(items) == 2 + 6
    assert items[-1]["scores"] == {"rule": None, "judge": None}
    assert items[2]["group"] == "cats"
