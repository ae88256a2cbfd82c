"""Verdicts that are missing: asked for again, never made up, and a reason to pause."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.costs import Ledger
from adhere.data.sample_store import SampleStore
from adhere.errors import VerdictsMissingError
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence, ReadEvidence, with_verdict
from adhere.guidance.guidance import Guidance
from adhere.guidance.missing import found_later, require_verdicts
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import prepare_tokenizer
from adhere.oracles.base import Oracle
from adhere.records import Prompt, Verdict
from adhere.sampling.sampler import SamplingConfig

PROMPTS = [Prompt(index, text) for index, text in enumerate(("ab", "cd", "ef g", "hi", "jkl", "m n", "op", "q"))]


class Flaky(Oracle):
    """Satisfied unless there is a vowel; fails on the calls that `fails` names (by number, and by output)."""

    name, version = "flaky", "1"

    def __init__(self, fails: Callable[[int, str], bool] = lambda call, output: False) -> None:
        self.fails = fails
        self.calls: list[list[str]] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.calls.append(list(outputs))
        number = len(self.calls) - 1
        return [None if self.fails(number, output) else float(not set(output) & set("aeiou")) for output in outputs]

    def trouble(self) -> str:
        return "the line was busy"


@pytest.fixture
def make_refresher(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., Refresher]:
    def make(oracle: Oracle, allowed: float = 0.1, folder: str = "run") -> Refresher:
        return Refresher(
            tokenizer=prepare_tokenizer(tiny_tokenizer),
            reference=FrozenModel(tiny_model, torch.float32),
            constraints=[Constraint(oracle, name="c")],
            prompts=PROMPTS,
            corpus=[],
            folder=tmp_path / folder,
            sampling=SamplingConfig(max_new_tokens=6, batch_size=4),
            refresh=RefreshConfig(samples=12, max_without_verdict=allowed),
            nado=NadoConfig(width=8, heads=2, rank=4),
            fitting=FitConfig(epochs=1, batch_size=4, consistency_positions=16),
            seed=3,
            report=lambda event, numbers: None,
        )

    return make


def _run(refresher: Refresher, policy: LlamaForCausalLM) -> Guidance:
    return refresher.run(Request(0, 0, 0, None), policy)


def _weights(guidance: Guidance) -> dict[str, torch.Tensor]:
    return guidance.nados["c"].state_dict()


def _same(one: Guidance, other: Guidance) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_weights(one).values(), _weights(other).values(), strict=True))


def test_what_a_later_pass_finds_is_as_if_nothing_had_failed(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    expected = _run(make_refresher(Flaky(), folder="whole"), tiny_model)
    flaky = Flaky(lambda call, output: call in (0, 2, 3))  # two of three batches, and the first later pass
    assert _same(_run(make_refresher(flaky), tiny_model), expected)
    outputs = [s.output for s in SampleStore(tmp_path / "run").samples(0)]
    assert [len(call) for call in flaky.calls] == [4, 4, 4, 8, 8]
    assert flaky.calls[3] == outputs[:4] + outputs[8:]
    whole, filled = (SampleStore(tmp_path / name).path("labels", 0).read_bytes() for name in ("whole", "run"))
    assert whole == filled
    costs = Ledger(tmp_path / "run").total()
    assert (costs.oracle_calls, costs.no_verdict) == (12, 0)


def test_too_many_missing_pause_the_run_and_resuming_asks_for_them_alone(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    expected = _run(make_refresher(Flaky(), folder="whole"), tiny_model)
    down = Flaky(lambda call, output: call >= 1)
    with pytest.raises(VerdictsMissingError) as caught:
        _run(make_refresher(down), tiny_model)
    said = str(caught.value)
    assert "8 of 12 outputs of iteration 0 got no verdict from constraint 'c' (67%" in said
    assert "guidance.max_without_verdict is 10%" in said
    assert "the line was busy" in said
    assert "--resume" in said
    assert not Guidance.exists(tmp_path / "run" / "guidance" / "iteration-0000")
    labelled = SampleStore(tmp_path / "run").labelled(0)
    assert [item.verdicts["c"].score is None for item in labelled] == [False] * 4 + [True] * 8
    assert Ledger(tmp_path / "run").total().no_verdict == 8

    back = Flaky()
    assert _same(_run(make_refresher(back), tiny_model), expected)
    assert back.calls == [[item.sample.output for item in labelled[4:]]]
    assert Ledger(tmp_path / "run").total().no_verdict == 0


def test_a_paused_run_may_be_told_to_go_on_with_fewer(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    with pytest.raises(VerdictsMissingError):
        _run(make_refresher(Flaky(lambda call, output: call >= 2)), tiny_model)
    guidance = _run(make_refresher(Flaky(lambda call, output: True), allowed=0.4), tiny_model)
    assert guidance.version.quality["c"]["sequences"] == 8
    labelled = SampleStore(tmp_path / "run").labelled(0)
    assert sum(item.verdicts["c"].score is None for item in labelled) == 4


def test_no_output_is_asked_about_that_has_its_verdict(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    one, two = Flaky(), Flaky()
    constraints = [Constraint(one, name="one"), Constraint(two, name="two")]
    verdicts = [
        {"one": Verdict(1.0), "two": Verdict(None)},
        {"one": Verdict(None), "two": Verdict(0.0)},
        {"one": Verdict(0.0), "two": Verdict(1.0)},
    ]
    found = {}
    for part, _ in found_later(constraints, tiny_tokenizer, ["p"] * 3, ["x", "y", "z"], [(1,)] * 3, verdicts):
        found.update(part)
    assert found == {0: {"two": Verdict(1.0)}, 1: {"one": Verdict(1.0)}}
    assert (one.calls, two.calls) == ([["y"]], [["x"]])


@pytest.mark.parametrize(("allowed", "pauses"), [(0.0, True), (0.24, True), (0.25, False), (1.0, False)])
def test_the_share_is_of_each_constraint(allowed: float, pauses: bool) -> None:
    constraints = [Constraint(Flaky(), name=name) for name in ("one", "two")]
    verdicts = [{"one": Verdict(1.0), "two": Verdict(None if i == 0 else 0.0)} for i in range(4)]
    if pauses:
        with pytest.raises(VerdictsMissingError, match="1 of 4 texts got no verdict from constraint 'two'"):
            require_verdicts(constraints, verdicts, allowed, "texts")
    else:
        assert require_verdicts(constraints, verdicts, allowed, "texts") == {"one": 0, "two": 1}


def _item(prompt: int, score: float | None, weight: float = 1.0, on_policy: bool = True) -> ReadEvidence:
    return ReadEvidence(Evidence((prompt,), (5,), {"c": Verdict(score)}, math.log(weight), on_policy), None)


def _importance(items: list[ReadEvidence]) -> list[float]:
    return [math.exp(item.evidence.log_importance) for item in items]


def test_where_nothing_is_missing_nothing_changes() -> None:
    items = [_item(1, 1.0, 0.5), _item(1, 0.0, 1.5), _item(9, 1.0, on_policy=False), _item(9, None, on_policy=False)]
    assert with_verdict(items, "c") == items[:3]
    assert all(a is b for a, b in zip(with_verdict(items, "c"), items, strict=False))


def test_the_outputs_of_a_prompt_that_were_judged_take_over_the_weight_of_those_that_were_not() -> None:
    items = [_item(1, 1.0), _item(1, None), _item(1, 0.0), _item(1, None), _item(2, 0.0), _item(2, 1.0)]
    kept = with_verdict([*items, _item(9, 1.0, on_policy=False)], "c")
    # Prompt 1 was drawn four times and 2 twice: so it stays, and the mean is 1.
    assert _importance(kept) == pytest.approx([4 / 3, 4 / 3, 2 / 3, 2 / 3, 1.0])


def test_the_mean_weight_is_one_when_a_prompt_is_lost_altogether() -> None:
    items = [_item(1, None, 3.0), _item(2, 1.0, 0.5), _item(3, 0.0, 0.25), _item(3, 1.0, 0.25)]
    kept = with_verdict(items, "c")
    assert _importance(kept) == pytest.approx([1.5, 0.75, 0.75])


def test_leaving_out_at_random_leaves_the_mean_score_where_it_was() -> None:
    """Prompts that are judged less often do not count less."""
    random = torch.Generator().manual_seed(0)
    items = []
    for prompt in range(400):
        clean = prompt % 2 == 0  # outputs of every other prompt satisfy, and the service loses most of these
        for _ in range(8):
            lost = float(torch.rand((), generator=random)) < (0.7 if clean else 0.0)
            items.append(_item(prompt, None if lost else float(clean)))
    kept = with_verdict(items, "c")
    weights = _importance(kept)
    mean = sum(w * (k.evidence.verdicts["c"].score or 0.0) for w, k in zip(weights, kept, strict=True)) / sum(weights)
    assert mean == pytest.approx(0.5, abs=0.02)
    unweighted = sum((k.evidence.verdicts["c"].score or 0.0) for k in kept) / len(kept)
    assert unweighted < 0.3


def test_evidence_itself_is_left_as_it_was() -> None:
    items = [_item(1, 1.0), _item(1, None), _item(2, 1.0)]
    before = [replace(item.evidence) for item in items]
    with_verdict(items, "c")
    assert [item.evidence for item in items] == before
