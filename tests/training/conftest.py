"""A trainer of a second: a tiny Llama, a corpus of a dozen rows of which every other one holds the banned letter."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.guidance.constraint import Constraint
from adhere.guidance.fit import FitResult
from adhere.guidance.guidance import generator_for
from adhere.models.nado import Nado
from adhere.oracles.rules import RegexOracle
from adhere.training.config import ConstrainedConfig
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]

NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl")


@pytest.fixture
def corpus() -> list[dict[str, str]]:
    """Twelve rows; those that end in `zzz` violate."""
    return [{"prompt": f"the {noun}", "completion": f" is {end}."} for noun in NOUNS for end in ("zzz", "good")]


@pytest.fixture
def no_z() -> Constraint:
    return Constraint(RegexOracle("z"), name="no z")


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., ConstrainedConfig]:
    """Settings of a run of four steps in two iterations; any may be given otherwise."""

    def make(**changed: Any) -> ConstrainedConfig:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"), "max_steps": 4, "iterations": 2, "per_device_train_batch_size": 3,
            "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 100, "max_length": 32, "use_cpu": True,
            "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 7,
            "sampling": {"max_new_tokens": 6, "batch_size": 4}, "refresh": {"samples": 8},
            "nado": {"width": 8, "heads": 2, "rank": 4},
            "nado_fit": {
                "epochs": 3, "batch_size": 4, "corpus_rows": 8, "consistency_positions": 8, "learning_rate": 0.03,
                "held_out": 0.4,
            },
        }  # fmt: skip
        return ConstrainedConfig(**{**settings, **changed})

    return make


@pytest.fixture
def make_trainer(
    make_config: Callable[..., ConstrainedConfig],
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    corpus: list[dict[str, str]],
    no_z: Constraint,
) -> MakeTrainer:
    """A trainer of its own copy of the model; `train_dataset`, `constraints`, ... and settings may be given otherwise."""

    def make(**changed: Any) -> ConstrainedTrainer:
        names = ("model", "train_dataset", "constraints", "processing_class", "prompts", "peft_config", "callbacks")
        parts: dict[str, Any] = {
            "model": copy.deepcopy(tiny_model),
            "train_dataset": corpus,
            "constraints": [no_z],
            "processing_class": tiny_tokenizer,
            **{name: changed.pop(name) for name in names if name in changed},
        }
        return ConstrainedTrainer(args=make_config(**changed), **parts)

    return make


@pytest.fixture
def telling_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of being fitted NADO gets weights that have something to say of every token."""

    def fit(nado: Nado, *_: Any) -> FitResult:
        with torch.no_grad():
            for weight in nado.parameters():
                weight.normal_(0, 0.3, generator=generator_for(1))
        return FitResult(nado, {}, {"auc": 0.5, "calibration_error": 0.0, "saturation": 0.0})

    monkeypatch.setattr("adhere.guidance.refresh.fit", fit)


@pytest.fixture
def every_fit_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Early stopping keeps the last epoch, however little there is to learn: guidance is never that of a fresh NADO."""
    losses = itertools.count(0, -1)
    monkeypatch.setattr("adhere.guidance.fit._held_out_loss", lambda *_: float(next(losses)))
