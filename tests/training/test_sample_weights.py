"""Weights of the policy's own outputs: of their prefixes in the loss, and in what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.data.sample_store import SampleStore
from adhere.guidance.constraint import Constraint
from adhere.guidance.guidance import Guidance
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import build_nado
from adhere.models.nado_config import NadoConfig
from adhere.oracles.rules import RegexOracle
from adhere.records import GuidanceVersion, LabelledSample, Sample, Verdict
from adhere.training.loss import Batch, LossSums, loss_sums
from adhere.training.progress_log import ProgressLog, satisfaction_numbers
from adhere.training.sample_rows import SampleRows
from adhere.training.trainer import ConstrainedTrainer

CONSTRAINT = Constraint(RegexOracle("a"), name="c")
OUTPUTS = [((1, 2), (3, 4, 31), 0.0), ((5,), (6, 9), -0.5), ((7, 8, 9), (1, 2, 3, 4), 0.25), ((2,), (30, 8), 0.6)]
VERDICTS = [Verdict(1.0), Verdict(1.0), Verdict(0.25, (1.0, 1.0, 1.0, 0.25, 0.25)), Verdict(0.0)]
SAMPLES = [
    LabelledSample(Sample(i, 0, "p", "o", prompt, output, True, -1.0, importance), {"c": verdict})
    for i, ((prompt, output, importance), verdict) in enumerate(zip(OUTPUTS, VERDICTS, strict=True))
]


def _guidance(model: LlamaForCausalLM, shape: str) -> Guidance:
    embeddings_VD = model.get_input_embeddings().weight.detach()
    nado = build_nado(NadoConfig(shape=shape, width=8, heads=2, rank=4), embeddings_VD, seed=0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for weight in nado.parameters():
            weight.normal_(0, 0.4)
    return Guidance(GuidanceVersion(0, 0), {"c": nado.freeze()})


@pytest.mark.parametrize("shape", ["frozen", "own"])
def test_a_sampled_prefix_weighs_the_same_however_the_samples_are_cut_into_batches(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, shape: str
) -> None:
    guidance, reference = _guidance(tiny_model, shape), FrozenModel(tiny_model, torch.float32)

    def sums(samples: list[LabelledSample], log_means: dict[str, torch.Tensor] | None) -> LossSums:
        rows = SampleRows(samples, [CONSTRAINT], tiny_tokenizer).batch(range(9), 0, 0)
        ids_BT, mask_BT = rows["input_ids"], rows["attention_mask"]
        output_BT = torch.nn.functional.pad(rows["output_mask"][:, 1:], (0, 1))
        none_B = torch.zeros(len(ids_BT), dtype=torch.bool)
        batch = Batch(
            ids_BT, mask_BT, torch.zeros_like(output_BT), output_BT, output_BT, ~none_B, none_B, rows["log_importance"],
            rows["violates_at"], rows["score"],
        )  # fmt: skip
        features_BTD = hidden_states(tiny_model, ids_BT, mask_BT)
        logits_BTV = tiny_model(ids_BT, attention_mask=mask_BT).logits
        return loss_sums(
            logits_BTV, batch, guidance, [CONSTRAINT], features_BTD, None, prefix_weight_clip=1.3, log_means=log_means
        )

    with torch.no_grad():
        log_means = SampleRows(SAMPLES, [CONSTRAINT], tiny_tokenizer).log_means(guidance, reference, batch_size=3)
        whole = float(sums(SAMPLES, None).kl["c"])
        apart = [float(sums([sample], log_means).kl["c"]) for sample in SAMPLES]
        alone = [float(sums([sample], None).kl["c"]) for sample in SAMPLES]
    assert sum(apart) == pytest.approx(whole, rel=1e-5)
    assert sum(alone) != pytest.approx(whole, rel=1e-3)


def test_samples_without_output_have_no_mean(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = SampleRows([], [CONSTRAINT], tiny_tokenizer)
    assert rows.log_means(_guidance(tiny_model, "own"), FrozenModel(tiny_model)) == {}


def test_the_trainer_divides_by_the_mean_over_the_iterations_samples(
    make_trainer: Callable[..., ConstrainedTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def watched(*arguments: Any, log_means: Any, **keywords: Any) -> LossSums:
        given.append(dict(log_means))
        return loss_sums(*arguments, log_means=log_means, **keywords)

    monkeypatch.setattr("adhere.training.trainer.loss_sums", watched)
    make_trainer(positions="both", violating_rows="learn").train()
    assert all(means.keys() == {"no z"} for means in given) and len(given) == 4
    assert given[0] == given[1] != given[2]  # steps of one iteration, and of the next


def test_the_log_tells_how_many_samples_the_weighted_ones_are_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SampleStore, "labelled", lambda *_: SAMPLES)
    logs: list[dict[str, float]] = []
    refreshes = SimpleNamespace(begins=True, is_new=True, told=dict)
    state = SimpleNamespace(global_step=0)
    trainer: Any = SimpleNamespace(constraints=[], state=state, log=logs.append, refreshes=refreshes)
    ProgressLog(tmp_path).guidance(trainer, Guidance(GuidanceVersion(0, 0), {}))
    weights = torch.tensor([importance for *_, importance in OUTPUTS]).exp()
    assert logs[0]["effective_samples"] == pytest.approx(float(weights.sum() ** 2 / (weights**2).sum()))


def test_several_outputs_of_a_prompt_make_the_interval_no_narrower() -> None:
    def labelled(prompts: int, replicates: int) -> list[LabelledSample]:
        return [
            LabelledSample(Sample(i, r, f"p{i}", "o", (1,), (2,), True, -1.0), {"c": Verdict(float(i % 4 > 0))})
            for i in range(prompts)
            for r in range(replicates)
        ]

    once, often = satisfaction_numbers("c", labelled(8, 1)), satisfaction_numbers("c", labelled(8, 6))
    assert once == pytest.approx(often)
    assert satisfaction_numbers("c", labelled(48, 1))["satisfaction/c/low"] > once["satisfaction/c/low"]
    certain = satisfaction_numbers("c", [LabelledSample(item.sample, {"c": Verdict(1.0)}) for item in labelled(8, 1)])
    assert certain["satisfaction/c"] == certain["satisfaction/c/high"] == 1.0
