"""Guidance made on a Ray cluster is that of one process, whatever becomes of the actors on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import RecipeError
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.executors import InProcess
from adhere.guidance.guidance import Guidance
from adhere.guidance.ray_config import RayConfig
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel, fast_dtype
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import prepare_tokenizer
from adhere.oracles.rules import RegexOracle
from adhere.records import Prompt, Verdict
from adhere.sampling.sampler import SamplingConfig

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.usefixtures("ray_of_its_own"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]

PROMPTS = [Prompt(index, text) for index, text in enumerate(("ab", "cd", "ef g", "hi", "jkl", "m n", "op", "q"))]
NO_VOWELS = Constraint(RegexOracle("[aeiou]"), name="no vowels")
FIRST = Request(0, 0, 0, None)


@pytest.fixture
def make_refresher(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., Refresher]:
    def make(**changed: Any) -> Refresher:
        parts: dict[str, Any] = {
            "tokenizer": prepare_tokenizer(tiny_tokenizer),
            "reference": FrozenModel(tiny_model, fast_dtype(tiny_model.device)),
            "constraints": [NO_VOWELS],
            "prompts": PROMPTS,
            "corpus": [Evidence((1, 2), (5, 6, 31), {NO_VOWELS.name: Verdict(1.0)}, on_policy=False)] * 2,
            "folder": tmp_path / "run",
            "sampling": SamplingConfig(max_new_tokens=6, batch_size=2),
            "refresh": RefreshConfig(samples=12),
            "nado": NadoConfig(width=8, heads=2, rank=4),
            "fitting": FitConfig(epochs=1, batch_size=4, consistency_positions=16),
            "seed": 3,
            "report": lambda event, numbers: None,
        }
        return Refresher(**{**parts, **changed})

    return make


def _executor(refresher: Refresher, timeout: float = 600.0, **config: Any) -> Any:
    from adhere.guidance.ray import RayExecutor

    settings = {"sampler_cpus": 0.5, "judge_cpus": 0.5, "fitter_cpus": 0.5, **config}
    return RayExecutor(refresher, None, RayConfig(**settings), timeout)


def _same(one: Guidance, other: Guidance) -> bool:
    pairs = [(one.nados[name].state_dict(), other.nados[name].state_dict()) for name in one.nados]
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*s/iteration-0000.jsonl"))}


def test_two_iterations_are_those_of_one_process_although_an_actor_dies(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    """The same samples, labels, guidance and events; the sampler is killed before the second iteration."""
    told: dict[str, list[tuple[str, dict[str, Any]]]] = {"here": [], "there": []}
    here, there = (
        make_refresher(
            folder=tmp_path / where, report=lambda event, numbers, where=where: told[where].append((event, numbers))
        )
        for where in told
    )
    executor = _executor(there)
    first = InProcess(here).submit(FIRST, tiny_model).result()
    pending = executor.submit(FIRST, tiny_model)
    assert (tmp_path / "there" / "snapshots" / "iteration-0000.safetensors").exists()
    found = pending.result()
    assert pending.done() and pending.seconds > 0 and executor.holds(0)
    assert _files(tmp_path / "here") == _files(tmp_path / "there") and len(_files(tmp_path / "there")) == 2
    assert _same(first, found) and first.version == found.version
    assert not list((tmp_path / "there" / "snapshots").iterdir())
    names = {where: sorted(event for event, _ in events) for where, events in told.items()}
    assert names["here"] == names["there"]

    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(1.1)  # training goes on
    sampler = executor._crews.samplers._idle[0].handle
    os.kill(ray.get(sampler.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
    second = InProcess(here).submit(Request(1, 4, 4, first), tiny_model).result()
    again = executor.submit(Request(1, 4, 4, found), tiny_model).result()
    executor.close()
    assert _same(second, again)
    assert again.version.iteration == 1 and executor.refresher.labelled(1) == here.labelled(1)


def test_guidance_that_is_there_is_read_without_a_cluster(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    made = make_refresher().run(FIRST, tiny_model)
    executor = _executor(make_refresher())
    pending = executor.submit(FIRST, tiny_model)
    assert pending.done() and _same(pending.result(), made) and pending.seconds == 0
    assert executor._crews is None


def test_a_cluster_that_is_not_there_is_said(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    executor = _executor(make_refresher(), address="10.0.0.1:6379")
    with pytest.raises(
        RecipeError, match=r"cluster at 10\.0\.0\.1:6379 cannot be joined.*Could not find any.*ray start"
    ):
        executor.submit(FIRST, tiny_model)


@pytest.mark.parametrize(("own", "seen"), [(None, "0"), ("7", "7")])
def test_the_actors_of_a_ray_of_its_own_do_not_stand_behind_the_training(
    make_refresher: Callable[..., Refresher],
    tiny_model: LlamaForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
    own: str | None,
    seen: str,
) -> None:
    """Ray gives workers a niceness of 15: beside a training that computes on every core they would hardly run."""
    told: list[str | None] = []

    def start(**_: Any) -> None:
        told.append(os.environ.get("RAY_worker_niceness"))  # noqa: SIM112  Ray spells it so
        raise ConnectionError("enough seen")

    monkeypatch.setenv("RAY_worker_niceness", own or "")
    if own is None:
        monkeypatch.delenv("RAY_worker_niceness")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(RecipeError, match="this machine cannot be joined"):
        _executor(make_refresher()).submit(FIRST, tiny_model)
    assert told == [seen]
