"""The oracles' verdicts as a reward: what is not known is neither good nor bad, and everything is counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast, TrainerState

from adhere.baselines.reward import WINDOW, OracleReward, combined
from adhere.costs import Costs, Ledger
from adhere.errors import OracleError, VerdictsMissingError
from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle


class Letters(Oracle):
    """0.5 for every output with the letter, nothing said of those with a question mark, 1 for the rest."""

    version = "1"

    def __init__(self, letter: str, judges_prompt: bool = False) -> None:
        self.name, self.letter, self.judges_prompt = f"no {letter}", letter, judges_prompt
        self.asked: list[str] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked += prompts
        return [None if "?" in output else 0.4 if self.letter in output else 1.0 for output in outputs]


def test_scores_are_multiplied_or_averaged() -> None:
    assert combined([0.5, 0.5, 1.0]) == 0.25
    assert combined([0.5, 1.0], "mean") == 0.75
    assert combined([1.0]) == combined([1.0], "mean") == 1.0


@pytest.mark.parametrize("scores", [[None], [1.0, None], [0.0, None]])
def test_an_output_without_a_verdict_has_no_reward_whatever_the_others_say(scores: list[float | None]) -> None:
    assert combined(scores) is None
    assert combined(scores, "mean") is None


def _reward(tokenizer: PreTrainedTokenizerFast, folder: Path, oracles: Sequence[Oracle]) -> OracleReward:
    return OracleReward([Constraint(oracle) for oracle in oracles], tokenizer, "product", Ledger(folder), "rloo")


def _call(reward: OracleReward, tokenizer: PreTrainedTokenizerFast, outputs: Sequence[str], step: int = 0) -> Any:
    told: dict[str, float] = {}
    ids = [[*tokenizer(output)["input_ids"], tokenizer.eos_token_id] for output in outputs]
    scores = reward(
        completion_ids=ids, asked=[f"p{i}" for i in range(len(ids))], trainer_state=TrainerState(global_step=step),
        log_metric=told.__setitem__, prompts=["other"] * len(ids), completions=[], log_extra=None,
    )  # fmt: skip
    return scores, told


def test_rewards_and_satisfaction_leave_out_what_has_no_verdict(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reward = _reward(tiny_tokenizer, tmp_path, [Letters("x"), Letters("y")])
    scores, told = _call(reward, tiny_tokenizer, ["fine", "an x", "x and y", "why?"])
    assert scores == [1.0, 0.4, pytest.approx(0.16), None]
    assert told == {
        "no_verdict/no x": 1.0, "satisfaction/no x": pytest.approx(1 / 3),
        "no_verdict/no y": 1.0, "satisfaction/no y": pytest.approx(2 / 3),
    }  # fmt: skip


def test_what_outputs_cost_is_noted_once_a_step(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    reward = _reward(tiny_tokenizer, tmp_path, [Letters("x"), Letters("y")])
    for step in (0, 1, 1):  # the last step is done again after a stop
        _call(reward, tiny_tokenizer, ["ab", "c?"], step)
    assert Ledger(tmp_path).total() == Costs(
        generated_outputs=4, generated_tokens=2 * (3 + 3), oracle_calls=2 * 2 * 2, no_verdict=2 * 2
    )


def test_when_no_output_has_a_verdict_no_satisfaction_is_told(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    scores, told = _call(_reward(tiny_tokenizer, tmp_path, [Letters("x")]), tiny_tokenizer, ["a?", "b?"])
    assert scores == [None, None]
    assert told == {"no_verdict/no x": 2.0}


def test_an_oracle_sees_the_prompt_that_the_user_wrote(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    oracle = Letters("x", judges_prompt=True)
    _call(_reward(tiny_tokenizer, tmp_path, [oracle]), tiny_tokenizer, ["a", "b"])
    assert oracle.asked == ["p0", "p1"]


def test_an_oracle_that_breaks_its_contract_stops_the_training(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Letters("x")
    monkeypatch.setattr(oracle, "score", lambda prompts, outputs: [2.0] * len(outputs))
    with pytest.raises(OracleError, match=r"must return numbers in \[0, 1\]"):
        _call(_reward(tiny_tokenizer, tmp_path, [oracle]), tiny_tokenizer, ["a"])


def test_training_pauses_when_too_many_of_the_last_outputs_have_no_verdict(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reward = OracleReward([Constraint(Letters("x"))], tiny_tokenizer, "product", Ledger(tmp_path), "rloo", 0.5)
    _call(reward, tiny_tokenizer, ["b"] * (WINDOW // 2 - 1))
    _call(reward, tiny_tokenizer, ["a?"] * (WINDOW // 2))  # too few outputs yet to tell
    with pytest.raises(VerdictsMissingError, match=rf"33 of the last {WINDOW} outputs got no verdict from .*--resume"):
        _call(reward, tiny_tokenizer, ["a?"])
