"""What another run left behind is not used; what this one left is read without making anything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import RunFolderError
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.executors import InProcess
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import prepare_tokenizer
from adhere.oracles.rules import RegexOracle
from adhere.records import Prompt, Verdict
from adhere.sampling.sampler import SamplingConfig

FIRST = Request(0, 0, 0, None)
NO_VOWELS = Constraint(RegexOracle("[aeiou]"), name="no vowels")


@pytest.fixture
def make_refresher(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., Refresher]:
    def make(**changed: Any) -> Refresher:
        parts: dict[str, Any] = {
            "tokenizer": prepare_tokenizer(tiny_tokenizer), "reference": FrozenModel(tiny_model, torch.float32),
            "constraints": [NO_VOWELS], "prompts": [Prompt(0, "ab"), Prompt(1, "cd")],
            "corpus": [Evidence((1, 2), (5, 6, 31), {"no vowels": Verdict(1.0)}, on_policy=False)],
            "folder": tmp_path / "run", "sampling": SamplingConfig(max_new_tokens=6, batch_size=8),
            "refresh": RefreshConfig(samples=8), "nado": NadoConfig(width=8, heads=2, rank=4),
            "fitting": FitConfig(epochs=1, consistency_positions=4), "seed": 3, "report": lambda event, numbers: None,
        }  # fmt: skip
        return Refresher(**{**parts, **changed})

    return make


def _other_model(model: LlamaForCausalLM) -> FrozenModel:
    other = copy.deepcopy(model)
    other.model.layers[1].mlp.down_proj.weight.data += 0.1
    return FrozenModel(other, torch.float32)


@pytest.mark.parametrize("what", ["nado", "fitting", "reference", "corpus"])
def test_guidance_of_another_model_corpus_or_shape_is_refused(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, what: str
) -> None:
    make_refresher().run(FIRST, tiny_model)
    other: Any = {
        "nado": NadoConfig(width=8, heads=2, rank=2), "fitting": FitConfig(epochs=2, consistency_positions=4),
        "reference": _other_model(tiny_model),
        "corpus": [Evidence((1, 2), (5, 7, 31), {"no vowels": Verdict(1.0)}, on_policy=False)],
    }[what]  # fmt: skip
    with pytest.raises(RunFolderError, match=r"was made by another run.*fingerprint"):
        make_refresher(**{what: other}).run(FIRST, tiny_model)


def test_the_same_model_in_another_dtype_is_the_same_model(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM
) -> None:
    """Which dtype it is held in depends on the machine, and a run may go on elsewhere."""
    assert FrozenModel(tiny_model, torch.bfloat16).digest() == FrozenModel(tiny_model, torch.float32).digest()
    make_refresher().run(FIRST, tiny_model)
    make_refresher(reference=FrozenModel(tiny_model, torch.bfloat16)).run(FIRST, tiny_model)


def test_guidance_on_disk_is_read_without_a_copy_of_the_policy(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = InProcess(make_refresher())
    assert not executor.holds(0)
    made = executor.submit(FIRST, tiny_model).result()
    assert executor.holds(0) and not executor.holds(1)
    monkeypatch.setattr("adhere.guidance.executors.FrozenModel", None)
    assert executor.submit(Request(0, 0, 3, None), tiny_model).result().version == made.version
