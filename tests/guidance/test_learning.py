"""What NADO learns of toy rules whose exact R is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from adhere.guidance.config import FitConfig
from adhere.guidance.evidence import Evidence, ReadEvidence, read
from adhere.guidance.fit import fit
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.records import Verdict

MakeEvidence = Callable[..., list[ReadEvidence]]
MakeNado = Callable[[], Nado]

BANNED = 3  # as in conftest


def _fit(nado: Nado, evidence: list[ReadEvidence], epochs: int = 12, **settings: float) -> dict[str, float]:
    config = FitConfig(epochs=epochs, batch_size=32, learning_rate=1e-2, **settings)
    return fit(nado, None, evidence, "c", config, torch.Generator().manual_seed(0)).quality


@torch.no_grad()
def _r_of_next(nado: Nado, prefix: list[int], model: LlamaForCausalLM | None = None) -> torch.Tensor:
    """R of every next token [V]."""
    tokens_1T = torch.tensor([prefix])
    mask_1T = torch.ones_like(tokens_1T)
    state = nado(tokens_1T if model is None else hidden_states(model, tokens_1T, mask_1T), mask_1T)
    return nado.next_logits(state.value_BT[:, -1], state.key_BTR[:, -1])[0].sigmoid()


def _others(r_V: torch.Tensor) -> torch.Tensor:
    return torch.cat([r_V[:BANNED], r_V[BANNED + 1 :]])


def test_a_banned_token_is_learned_from_samples(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    nado = make_nado()
    quality = _fit(nado, toy_evidence(300, asked=2))
    for prefix in ([1], [1, 7], [1, 5, 20]):
        r_V = _r_of_next(nado, prefix)
        assert r_V[BANNED] < 0.2
        assert _others(r_V).mean() > 0.8 and _others(r_V).min() > 0.6
    assert _r_of_next(nado, [1, 7, BANNED]).max() < 0.2  # violated once and for all
    assert quality["auc"] > 0.8 and quality["best_epoch"] > 0


def test_it_is_learned_on_the_hidden_states_of_a_frozen_model_too(tiny_model: LlamaForCausalLM) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(31, (300, 4), generator=random).tolist()
    evidence = []
    for row in rows:
        clean = tuple(float(BANNED not in row[:end]) for end in range(5))
        evidence.append(Evidence((1,), tuple(row), {"c": Verdict(clean[-1], None if clean[-1] else clean)}))
    reference = FrozenModel(tiny_model, torch.float32)
    nado = build_nado(NadoConfig(width=16, heads=2, rank=8), reference.embeddings_VD, seed=0)
    _fit(nado, read(evidence, reference, tiny_model, asked=0, generator=random))
    for prefix in ([1], [1, 7], [1, 5, 20]):
        r_V = _r_of_next(nado, prefix, tiny_model)
        assert r_V[BANNED] < 0.2 and _others(r_V).mean() > 0.8


def test_prefix_labels_put_the_blame_on_the_token_that_violates(
    toy_evidence: MakeEvidence, make_nado: MakeNado
) -> None:
    """Whole-sequence labels blame whatever stood in a violating sequence; of long ones most violate."""

    def gap(prefix_labels: bool) -> float:
        nado = make_nado()
        _fit(nado, toy_evidence(96, length=16, prefix_labels=prefix_labels), epochs=8)
        found = [_r_of_next(nado, prefix) for prefix in ([1], [1, 7, 9], [1, 5, 20, 11, 2, 8])]
        return sum(float(_others(r_V).median() - r_V[BANNED]) for r_V in found) / len(found)

    assert gap(prefix_labels=True) > gap(prefix_labels=False) + 0.1


def test_a_clean_prefix_of_a_violating_sample_is_blamed_less_the_smaller_td_lambda(make_nado: MakeNado) -> None:
    """Every sample begins with 5; half go wrong at once. Where 9 stands before the violation its luck is not its fault."""
    rows = [(5, 9, 7, BANNED)] * 20 + [(5, 8, 7, 6)] * 100 + [(5, 9, 7, 6)] * 20
    evidence = []
    for row in rows:
        clean = tuple(float(BANNED not in row[:end]) for end in range(5))
        evidence.append(ReadEvidence(Evidence((1,), row, {"c": Verdict(clean[-1], None if clean[-1] else clean)}), None))
    random = torch.Generator().manual_seed(0)
    evidence = [evidence[i] for i in torch.randperm(len(evidence), generator=random).tolist()]

    def r_of_nine(td_lambda: float) -> float:
        nado = make_nado()
        _fit(nado, evidence, epochs=4, td_lambda=td_lambda, consistency_weight=0.0)
        return float(_r_of_next(nado, [1, 5])[9])

    assert r_of_nine(1.0) < r_of_nine(0.2)


def test_importance_weights_make_r_that_of_the_policy(make_nado: MakeNado) -> None:
    """Half the samples violate; under the policy, for which the satisfied ones stand three times over, a quarter do."""
    rows = [(5, 9, 7, token) for token in (6, BANNED) * 60]
    evidence = [
        ReadEvidence(
            Evidence((1,), row, {"c": Verdict(float(row[-1] != BANNED))}, math.log(3.0) if row[-1] != BANNED else 0.0),
            None,
        )
        for row in rows
    ]
    nado = make_nado()
    _fit(nado, evidence, epochs=6, held_out=0.3)
    assert float(_r_of_next(nado, [1])[5]) == pytest.approx(0.75, abs=0.05)
    plain = make_nado()
    unweighted = [dataclasses.replace(item.evidence, log_importance=0.0) for item in evidence]
    _fit(plain, [ReadEvidence(item, None) for item in unweighted], epochs=6, held_out=0.3)
    assert float(_r_of_next(plain, [1])[5]) == pytest.approx(0.5, abs=0.05)


def test_forward_consistency_teaches_what_the_end_of_corpus_rows_says(
    toy_evidence: MakeEvidence, make_nado: MakeNado
) -> None:
    """Corpus rows that violate far more often than the policy does: R at a clean prefix is still the policy's.

    Nine of ten rows violate at their last token; under the policy, where all tokens are alike, one in 24 would.
    """
    random = torch.Generator().manual_seed(1)
    others = [token for token in range(24) if token != BANNED]
    evidence = []
    for number in range(200):
        first, second, third = (others[int(i)] for i in torch.randint(23, (3,), generator=random))
        row = (first, second, BANNED if number % 10 else third)
        clean = tuple(float(BANNED not in row[:end]) for end in range(4))
        item = ReadEvidence(
            Evidence((1,), row, {"c": Verdict(clean[-1], None if clean[-1] else clean)}, on_policy=False), None
        )
        item.asked_C = [0, 1, 2]
        item.log_p_CV = torch.full((3, 24), 1 / 24).log()
        evidence.append(item)
    evidence += toy_evidence(40, length=3, seed=3)
    nado = make_nado()
    _fit(nado, evidence, epochs=16)
    told = _others(_r_of_next(nado, [1]))
    assert told.mean() > 0.6  # what the rows themselves would say: 0.1
