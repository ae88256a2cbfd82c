"""How much each sequence counts in the fit and in what is reported of it, and what is known of one that was cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.guidance import evidence as evidence_module
from adhere.guidance import fit as fitting
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence, ReadEvidence, evidence_of, read
from adhere.guidance.fit import fit
from adhere.guidance.quality import fit_quality
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel
from adhere.models.nado import Nado
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import prepare_tokenizer
from adhere.oracles.rules import RegexOracle
from adhere.records import LabelledSample, Prompt, Sample, Verdict
from adhere.sampling.sampler import SamplingConfig

MakeEvidence = Callable[..., list[ReadEvidence]]
MakeNado = Callable[[], Nado]


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _labelled(*log_importance: float) -> list[LabelledSample]:
    return [
        LabelledSample(Sample(i, 0, "p", "o", (1,), (2,), True, -1.0, log), {"c": Verdict(1.0)})
        for i, log in enumerate(log_importance)
    ]


def _changed(items: list[ReadEvidence], **fields: Any) -> list[ReadEvidence]:
    return [dataclasses.replace(item, evidence=dataclasses.replace(item.evidence, **fields)) for item in items]


def test_importance_is_one_in_the_mean_as_that_of_corpus_rows_is() -> None:
    weights = torch.tensor([item.log_importance for item in evidence_of(_labelled(-7.0, -9.0, -8.5))]).exp()
    assert float(weights.mean()) == pytest.approx(1.0)
    assert float((weights[1] / weights[0]).log()) == pytest.approx(-2.0, rel=1e-5)
    assert [item.log_importance for item in evidence_of(_labelled(0.0, 0.0))] == [0.0, 0.0]
    assert evidence_of([]) == []


def test_quality_is_that_of_the_policys_own_held_out_outputs(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    own = toy_evidence(60)
    corpus = _changed(toy_evidence(60, seed=1, on_policy=False), verdicts={"c": Verdict(0.0)})
    config = FitConfig(epochs=1, held_out=0.4)
    quality = fit(make_nado(), None, [*own, *corpus], "c", config, _random()).quality
    held_out = [item for item in fitting._split([*own, *corpus], 0.4)[1] if item.evidence.on_policy]
    rate = sum(item.evidence.verdicts["c"].score or 0.0 for item in held_out) / len(held_out)
    assert quality["base_rate"] == pytest.approx(rate) and rate > 0.5  # of all held-out sequences it is below a half


def test_where_the_own_outputs_are_all_alike_quality_is_of_all_held_out(
    toy_evidence: MakeEvidence, make_nado: MakeNado
) -> None:
    own = _changed(toy_evidence(40), verdicts={"c": Verdict(1.0)})
    corpus = _changed(toy_evidence(40, seed=1, on_policy=False), verdicts={"c": Verdict(0.0)})
    quality = fit(make_nado(), None, [*own, *corpus], "c", FitConfig(epochs=1, held_out=0.4), _random()).quality
    assert quality["base_rate"] == pytest.approx(0.5)


def test_quality_counts_each_output_by_its_importance() -> None:
    logit, score = torch.tensor([2.0, 1.0, 0.0, -9.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    twice = fit_quality(*(torch.cat([part, part[2:3]]) for part in (logit, score, logit)))
    weighed = fit_quality(logit, score, logit, torch.tensor([1.0, 1.0, 2.0, 1.0]))
    assert weighed == pytest.approx(twice)
    assert weighed != pytest.approx(fit_quality(logit, score, logit))
    assert fit_quality(torch.empty(0), torch.empty(0), torch.empty(0))["calibration_error"] == 0.0


def test_the_end_of_a_row_that_was_cut_is_not_known(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    clean, violating = (Verdict(1.0), Verdict(0.0, (1.0, 1.0, 0.0, 0.0, 0.0)))
    rows = toy_evidence(2, on_policy=False)
    items = [*_changed(rows[:1], verdicts={"c": clean}), *_changed(rows[1:], verdicts={"c": violating})]

    def known(items: list[ReadEvidence]) -> list[list[bool]]:
        return fitting._read_batch(make_nado(), items, "c", torch.device("cpu")).known_BN.tolist()

    whole, cut = known(items), known(_changed(items, finished=False))
    assert whole[0] == [False] * 4 + [True] and cut[0] == [False] * 5
    assert whole[1][2] and cut[1][2]  # what is settled stays settled however it goes on
    assert all(known(_changed(items, finished=False, on_policy=True))[0])


def test_logits_of_few_rows_are_held_at_a_time_where_they_are_large(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Evidence((1, 2), tuple(range(3, 3 + n)), {"c": Verdict(1.0)}) for n in (4, 2, 4, 3)]
    shapes: list[torch.Size] = []
    whole = evidence_module.logits_at

    def watched(*arguments: Any) -> torch.Tensor:
        shapes.append((logits_CV := whole(*arguments)).shape)
        return logits_CV

    monkeypatch.setattr(evidence_module, "logits_at", watched)
    monkeypatch.setattr(evidence_module, "LOGITS_AT_ONCE", 2 * 4 * tiny_model.config.vocab_size)
    ready = read(items, None, tiny_model, asked=16, generator=_random())
    assert [shape[0] for shape in shapes] == [5, 8] and all(item.log_p_CK is not None for item in ready)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_refresh_tells_its_speed_and_what_truncated_samples_are_worth(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, temperature: float
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    refresher = Refresher(
        tokenizer=prepare_tokenizer(tiny_tokenizer),
        reference=FrozenModel(tiny_model, torch.float32),
        constraints=[Constraint(RegexOracle("[aeiou]"), name="c")],
        prompts=[Prompt(index, text) for index, text in enumerate("abcdefgh")],
        corpus=[],
        folder=tmp_path,
        sampling=SamplingConfig(max_new_tokens=6, batch_size=4, temperature=temperature),
        refresh=RefreshConfig(samples=8),
        nado=NadoConfig(width=8, heads=2, rank=4),
        fitting=FitConfig(epochs=1, consistency_positions=0),
        seed=3,
        report=lambda event, numbers: told.append((event, numbers)),
    )
    refresher.run(Request(0, 0, 0, None), tiny_model)
    assert all(numbers["tokens_per_second"] > 0 for event, numbers in told if event == "sampled")
    labelled = next(numbers for event, numbers in told if event == "labelled")
    assert ("effective_samples" in labelled) == (temperature != 1.0)
    if temperature != 1.0:
        assert 1 <= labelled["effective_samples"] < 8
