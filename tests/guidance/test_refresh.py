"""One refresh: sample, label, fit; what is on disk is used again, what is lost is not made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.data.sample_store import SampleStore
from adhere.errors import GuidanceError, RunFolderError
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.executors import InProcess
from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import prepare_tokenizer
from adhere.oracles.base import Oracle
from adhere.oracles.rules import RegexOracle
from adhere.records import Prompt, Verdict
from adhere.sampling.sampler import SamplingConfig, TransformersSampler

PROMPTS = [Prompt(index, text) for index, text in enumerate(("ab", "cd", "ef g", "hi", "jkl", "m n", "op", "q"))]
NO_VOWELS = Constraint(RegexOracle("[aeiou]"), name="no vowels")


class Sometimes(Oracle):
    """Satisfied unless there is a vowel; from its `until`-th call on, whatever there is."""

    name, version = "sometimes", "1"

    def __init__(self, until: int) -> None:
        self.calls, self.until = 0, until

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.calls += 1
        return [float(self.calls > self.until or not set(output) & set("aeiou")) for output in outputs]


@pytest.fixture
def told() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def make_refresher(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, told: list[Any]
) -> Callable[..., Refresher]:
    def make(**changed: Any) -> Refresher:
        parts: dict[str, Any] = {
            "tokenizer": prepare_tokenizer(tiny_tokenizer),
            "reference": FrozenModel(tiny_model, torch.float32),
            "constraints": [NO_VOWELS],
            "prompts": PROMPTS,
            "corpus": [Evidence((1, 2), (5, 6, 31), {NO_VOWELS.name: Verdict(1.0)}, on_policy=False)] * 2,
            "folder": tmp_path / "run",
            "sampling": SamplingConfig(max_new_tokens=6, batch_size=4),
            "refresh": RefreshConfig(samples=12),
            "nado": NadoConfig(width=8, heads=2, rank=4),
            "fitting": FitConfig(epochs=1, batch_size=4, consistency_positions=16),
            "seed": 3,
            "report": lambda event, numbers: told.append((event, numbers)),
        }
        return Refresher(**{**parts, **changed})

    return make


def _same(one: Guidance, other: Guidance) -> bool:
    pairs = [(one.nados[name].state_dict(), other.nados[name].state_dict()) for name in one.nados]
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


FIRST = Request(0, 0, 0, None)


def test_a_refresh_leaves_samples_labels_and_guidance_on_disk(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, told: list[Any], tmp_path: Path
) -> None:
    refresher = make_refresher()
    guidance = refresher.run(FIRST, tiny_model)
    store = SampleStore(tmp_path / "run")
    assert store.complete("samples", 0) and store.complete("labels", 0)
    labelled = refresher.labelled(0)
    assert len(labelled) == 12
    for item in labelled:
        satisfied = not set(item.sample.output) & set("aeiou")
        assert item.verdicts[NO_VOWELS.name].score == float(satisfied)
        assert (item.verdicts[NO_VOWELS.name].prefix_scores is None) == satisfied
    assert guidance.version.iteration == 0 and guidance.version.policy_step == 0
    assert guidance.version.quality[NO_VOWELS.name]["sequences"] == 14  # the corpus rows are fitted beside them
    assert Guidance.exists(refresher.guidance_folder(0))
    assert [event for event, _ in told] == [
        *["sampled"] * 3, "spent", *["judged"] * 3, "labelled", "spent", "read", "fitted", "spent",
    ]  # fmt: skip
    assert told[2][1].pop("tokens_per_second") > 0
    assert told[2][1] == {"batch": 3, "batches": 3}
    assert [numbers["part"] for event, numbers in told if event == "spent"] == ["sampling", "labelling", "fitting"]
    assert told[-2][1]["constraint"] == NO_VOWELS.name and "auc" in told[-2][1]


def test_guidance_on_disk_is_loaded_and_not_made_again(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, told: list[Any]
) -> None:
    made = make_refresher().run(FIRST, tiny_model)
    told.clear()
    later = Request(0, 0, 5, None)  # asked at step 5, in the middle of the iteration
    assert _same(make_refresher().run(later, tiny_model), made)
    assert told == []


def test_lost_guidance_is_not_made_again_once_the_policy_has_moved_on(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    with pytest.raises(RunFolderError, match=r"iteration-0001 is missing.*moved on from step 4 to 5.*cannot be made"):
        make_refresher().run(Request(1, 4, 5, None), tiny_model)


@pytest.mark.parametrize("part", ["sampling", "labelling", "fitting"])
def test_a_refresh_that_was_stopped_goes_on_to_the_same_guidance(
    make_refresher: Callable[..., Refresher],
    tiny_model: LlamaForCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    whole = make_refresher(folder=tmp_path / "whole").run(FIRST, tiny_model)
    calls: list[int] = []

    def stops(original: Callable[..., Any], at: int) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(*arguments, **keywords)

        return call

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if part == "sampling":
            patched.setattr(TransformersSampler, "draw", stops(TransformersSampler.draw, 3))
        elif part == "labelling":
            patched.setattr("adhere.guidance.labelling.label", stops(lambda *_: [], 1))
        else:
            patched.setattr("adhere.guidance.refresh.fit", stops(lambda *_: None, 1))
        make_refresher().run(FIRST, tiny_model)
    drawn: list[int] = []
    draw = TransformersSampler.draw

    def watched(sampler: TransformersSampler, batch: Any, seed: int) -> Any:
        drawn.append(batch.number)
        return draw(sampler, batch, seed)

    monkeypatch.setattr(TransformersSampler, "draw", watched)
    assert _same(make_refresher().run(FIRST, tiny_model), whole)
    assert drawn == ([2] if part == "sampling" else [])  # what was drawn is not drawn again


def test_each_iteration_samples_its_own_prompts_and_its_own_outputs(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    refresher = make_refresher(refresh=RefreshConfig(samples=6))
    first = refresher.run(FIRST, tiny_model)
    refresher.run(Request(1, 0, 0, first), tiny_model)
    shares = [{item.sample.prompt for item in refresher.labelled(k)} for k in (0, 1)]
    assert shares[0] != shares[1] and all(len(share) == 6 for share in shares)
    outputs = [{item.sample.prompt: item.sample.output for item in refresher.labelled(k)} for k in (0, 1)]
    shared = shares[0] & shares[1]
    assert shared and any(outputs[0][prompt] != outputs[1][prompt] for prompt in shared)


def test_more_samples_than_prompts_ask_prompts_again_for_other_outputs(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    refresher = make_refresher(refresh=RefreshConfig(samples=20, samples_per_prompt=2), prompts=PROMPTS[:4])
    refresher.run(FIRST, tiny_model)
    outputs: dict[str, list[str]] = {}
    for item in refresher.labelled(0):
        outputs.setdefault(item.sample.prompt, []).append(item.sample.output)
    assert sum(map(len, outputs.values())) == 20 and {len(each) for each in outputs.values()} == {4, 6}
    assert all(len(set(each)) > 2 for each in outputs.values())


def test_a_refresh_leaves_the_global_random_state_alone(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    class Draws(Sometimes):
        """An oracle that is a model of its own may draw from torch's generator."""

        def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
            torch.rand(3)
            return super().score(prompts, outputs)

    tiny_model.train()
    before, weights = torch.random.get_rng_state(), tiny_model.state_dict()["lm_head.weight"].clone()
    InProcess(make_refresher(constraints=[Constraint(Draws(until=99))], corpus=[])).submit(FIRST, tiny_model).result()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(tiny_model.state_dict()["lm_head.weight"], weights)
    assert tiny_model.training and tiny_model.lm_head.weight.requires_grad


def test_the_first_fit_with_labels_all_alike_is_refused(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    never = Constraint(RegexOracle("!{9}"), name="nothing violates")
    with pytest.raises(GuidanceError, match="nothing violates"):
        make_refresher(constraints=[never], corpus=[]).run(FIRST, tiny_model)
    assert len(make_refresher(constraints=[never]).labelled(0)) == 12  # the samples are there to be looked at


def test_one_of_several_rules_that_nothing_breaks_says_nothing_until_something_does(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, told: list[Any]
) -> None:
    idle = Constraint(RegexOracle("!{9}"), name="nothing violates")
    refresher = make_refresher(constraints=[Constraint(Sometimes(until=99)), idle], corpus=[])
    first = refresher.run(FIRST, tiny_model)
    assert next(numbers for event, numbers in told if event == "idle")["constraint"] == idle.name
    assert first.version.quality[idle.name] == {} != first.version.quality["sometimes"]
    nado = first.nados[idle.name]
    state = nado(torch.randn(1, 3, tiny_model.config.hidden_size), torch.ones(1, 3, dtype=torch.long))
    logits_NV = nado.next_logits(state.value_BT[0], state.key_BTR[0])
    assert logits_NV.min() == logits_NV.max() > 4  # the same for every token: q* is p
    loaded = Guidance.load(refresher.guidance_folder(0), refresher.reference.embeddings_VD)
    second = refresher.run(Request(1, 4, 4, loaded), tiny_model)  # also after a resume
    assert second.version.quality[idle.name] == {}


def test_a_rule_that_everything_breaks_is_refused_also_among_others(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    always = Constraint(RegexOracle("^", prefix_closed=False), name="all violate")
    with pytest.raises(GuidanceError, match="all violate"):
        make_refresher(constraints=[Constraint(Sometimes(until=99)), always], corpus=[]).run(FIRST, tiny_model)


def test_a_later_fit_with_labels_all_alike_keeps_the_guidance_there_is_and_says_so(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, told: list[Any]
) -> None:
    settings = {"constraints": [Constraint(Sometimes(until=3))], "corpus": []}
    refresher = make_refresher(**settings)
    first = refresher.run(FIRST, tiny_model)
    told.clear()
    second = refresher.run(Request(1, 4, 4, first), tiny_model)
    assert _same(first, second)
    assert second.version.iteration == 1 and second.version.policy_step == 4
    assert second.version.quality == first.version.quality
    assert next(numbers for event, numbers in told if event == "kept")["constraint"] == "sometimes"
    loaded = Guidance.load(refresher.guidance_folder(1), refresher.reference.embeddings_VD)
    assert _same(loaded, first)
    assert loaded.optimizers["sometimes"].keys() == first.optimizers["sometimes"].keys() != set()


@pytest.mark.parametrize("stopped", [False, True])
def test_samples_and_guidance_of_another_oracle_are_refused(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, stopped: bool
) -> None:
    refresher = make_refresher()
    refresher.run(FIRST, tiny_model)
    if stopped:
        shutil.rmtree(refresher.guidance_folder(0))
    other = make_refresher(constraints=[Constraint(RegexOracle("[xyz]"), name="no vowels")])
    with pytest.raises(RunFolderError, match="fingerprint"):
        other.run(FIRST, tiny_model)


def test_guidance_of_another_step_is_refused(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    make_refresher().run(FIRST, tiny_model)
    with pytest.raises(RunFolderError, match=r"was made by another run: .*policy_step 0, this run has 4"):
        make_refresher().run(Request(0, 4, 4, None), tiny_model)


def test_the_header_of_the_samples_tells_what_made_them(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    make_refresher().run(FIRST, tiny_model)
    header = json.loads((tmp_path / "run" / "samples" / "iteration-0000.jsonl").read_text().splitlines()[0])
    assert header | {"fingerprint": ""} == {
        "kind": "samples", "iteration": 0, "policy_step": 0, "fingerprint": "", "batches": 3,
    }  # fmt: skip
