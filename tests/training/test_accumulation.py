"""Runs that must be the same share one trajectory: accumulated or not, with guidance that says nothing or without any."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from adhere.data.collation import ConstrainedCollator
from adhere.guidance.constraint import Constraint
from adhere.guidance.fit import FitResult
from adhere.models.nado import Nado
from adhere.oracles.rules import JsonOracle
from adhere.training.loss import LossSums
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]

ENDS = ("good", "z", "so very good.", "ok zz!", "a", "not at all what", "zz top", "b", "ccc", "dddd", "ez", "fine!")
SGD = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.05}
ROWS = [{"prompt": "the cat", "completion": f" is {end}"} for end in ENDS]  # of different lengths


def _trained(trainer: Trainer) -> dict[str, Tensor]:
    trainer.train()
    assert trainer.model is not None
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def _assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("telling_guidance")
@pytest.mark.parametrize("settings", [{"violating_rows": "learn"}, {"violating_rows": "leave", "anchor": "reference"}])
def test_gradient_accumulation_does_not_scale_the_loss_by_1_over_g(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """A fault of earlier code (method.md §7): G batches of b rows must teach what one of G·b rows does.

    By plain gradient descent without clipping: AdamW would not notice a loss that is scaled as a whole. The rows differ
    in length, so the mean of the batches' means would not do either, for the corpus or for the KL.
    """
    # In bfloat16 the frozen model's numbers would depend on the batch's shape.
    monkeypatch.setattr("adhere.training.trainer.fast_dtype", lambda _: torch.float32)
    runs: dict[int, dict[str, Tensor]] = {}
    logs: dict[int, list[float]] = {}
    for batches in (1, 3):
        trainer = make_trainer(
            **SGD,
            **settings,
            max_steps=3,
            iterations=1,
            train_dataset=ROWS,
            output_dir=str(tmp_path / str(batches)),
            per_device_train_batch_size=6 // batches,
            gradient_accumulation_steps=batches,
        )
        runs[batches] = _trained(trainer)
        logged = [line for line in trainer.state.log_history if "loss" in line]
        assert sum(line["kl"] for line in logged) > 1e-3  # the regulariser has something to say
        logs[batches] = [line[key] for line in logged for key in ("loss", "corpus_loss", "kl")]
    _assert_close(runs[3], runs[1])
    assert logs[3] == pytest.approx(logs[1], rel=1e-5)


@pytest.mark.usefixtures("telling_guidance")
@pytest.mark.parametrize("positions", ["corpus", "samples"])
def test_either_loss_is_divided_by_its_own_tokens_of_the_whole_step(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, positions: str
) -> None:
    """Rows that are learned whole are held at their outputs alone, so the two counts differ."""
    rows = [{"text": row["prompt"] + row["completion"]} for row in ROWS]
    trainer = make_trainer(
        train_dataset=rows, prompt_words=2, positions=positions, max_steps=1, iterations=1,
        gradient_accumulation_steps=2, violating_rows="learn",
    )  # fmt: skip
    seen: list[dict[str, Tensor]] = []
    sums: list[LossSums] = []
    complete, add = trainer._complete, trainer.progress.add

    def completed(batch: Any, number: int) -> dict[str, Tensor]:
        seen.append(complete(batch, number))
        return seen[-1]

    def added(found: LossSums, *rest: Any) -> None:
        sums.append(found)
        add(found, *rest)

    monkeypatch.setattr(trainer, "_complete", completed)
    monkeypatch.setattr(trainer.progress, "add", added)
    trainer.train()
    learned, held = (sum(int(batch[name].sum()) for batch in seen) for name in ("learned", "held"))
    assert learned != held
    expected = sum(float(part.corpus.detach()) / learned + float(part.regulariser.detach()) / held for part in sums)
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["loss"] == pytest.approx(expected, rel=1e-5)
    assert line["kl"] == pytest.approx(sum(float(part.kl["no z"]) for part in sums) / held, rel=1e-5)


@pytest.mark.parametrize("positions", ["corpus", "both"])
def test_guidance_that_says_nothing_is_plain_fine_tuning(
    make_trainer: MakeTrainer,
    tiny_model: LlamaForCausalLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    positions: str,
) -> None:
    """A fresh NADO says the same of every token, so that q* is p (method.md §3).

    By plain gradient descent: AdamW makes a whole step of the rounding errors where the gradient is 0.
    """

    def fresh(nado: Nado, *_: Any) -> FitResult:
        nado.start_at(0.7)
        return FitResult(nado, {}, {})

    monkeypatch.setattr("adhere.guidance.refresh.fit", fresh)
    start = copy.deepcopy(tiny_model)
    constrained = make_trainer(
        **SGD, positions=positions, violating_rows="learn", reference_kl=0.0, gradient_accumulation_steps=2, train_dataset=ROWS,
        constraints=[Constraint(JsonOracle(), name="json")],  # it does not say where, so nothing is known but by NADO
    )  # fmt: skip
    collate = ConstrainedCollator(constrained.tokenizer)

    def plain_batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate(rows)
        return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    settings = {name: getattr(constrained.args, name) for name in _SHARED}
    plain = Trainer(
        model=start,
        args=TrainingArguments(output_dir=str(tmp_path / "plain"), use_cpu=True, report_to="none", **settings),
        train_dataset=constrained.train_dataset,
        data_collator=plain_batch,
    )
    _assert_close(_trained(constrained), _trained(plain))
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (constrained, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


_SHARED = (
    "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "logging_steps", "optim",
    "max_grad_norm", "save_steps", "seed", "disable_tqdm", "dataloader_pin_memory", "remove_unused_columns",
)  # fmt: skip
