"""What NADO learns of toy rules whose exact R is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import LlamaForCausalLM

from adhere.guidance.config import FitConfig
from adhere.guidance.evidence import Evidence, ReadEvidence, read
from adhere.guidance.fit import fit
from adhere.guidance.likely_tokens import likely_tokens
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.records import Verdict

MakeEvidence = Callable[..., list[ReadEvidence]]
MakeNado = Callable[[], Nado]

BANNED = 3  # as in conftest


def _fit(nado: Nado, evidence: list[ReadEvidence], epochs: int = 12, **settings: float) -> dict[str, float]:
    config = FitConfig.model_validate({"epochs": epochs, "batch_size": 32, "learning_rate": 1e-2, **settings})
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
    quality = _fit(nado, toy_evidence(400, length=3, asked=2), learning_rate=2e-2)
    for prefix, exact in (([1], (23 / 24) ** 2), ([1, 7], 23 / 24)):
        r_V = _r_of_next(nado, prefix)
        assert r_V[BANNED] < 0.25
        assert _others(r_V).mean() > 0.8 and _others(r_V).min() > 0.6
        assert float(_others(r_V).mean()) == pytest.approx(exact, abs=0.1)
    assert _r_of_next(nado, [1, 7, BANNED]).max() < 0.25  # violated once and for all
    assert quality["auc"] > 0.8 and quality["best_epoch"] > 0


def test_it_is_learned_on_the_hidden_states_of_a_frozen_model_too(tiny_model: LlamaForCausalLM) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(31, (400, 3), generator=random).tolist()
    evidence = []
    for row in rows:
        clean = tuple(float(BANNED not in row[:end]) for end in range(4))
        evidence.append(Evidence((1,), tuple(row), {"c": Verdict(clean[-1], None if clean[-1] else clean)}))
    reference = FrozenModel(tiny_model, torch.float32)
    nado = build_nado(NadoConfig(width=16, heads=2, rank=8), reference.embeddings_VD, seed=0)
    _fit(nado, read(evidence, reference, tiny_model, asked=0, generator=random), learning_rate=2e-2)
    for prefix in ([1], [1, 7]):
        r_V = _r_of_next(nado, prefix, tiny_model)
        assert r_V[BANNED] < 0.25 and _others(r_V).mean() > 0.8


def test_prefix_labels_put_the_blame_on_the_token_that_violates(
    toy_evidence: MakeEvidence, make_nado: MakeNado
) -> None:
    """Whole-sequence labels blame whatever stood in a violating sequence; of long ones most violate."""

    def ranking(prefix_labels: bool, td_lambda: float) -> float:
        """ROC-AUC of 1 − R for the token that violates among all up to it."""
        nado = make_nado()
        _fit(nado, toy_evidence(200, length=24, prefix_labels=prefix_labels), epochs=8, td_lambda=td_lambda)
        blame, violates = [], []
        for item in toy_evidence(100, length=24, seed=77):
            output = list(item.evidence.output_ids)
            output = output[: output.index(BANNED) + 1] if BANNED in output else output
            with torch.no_grad():
                tokens_1T = torch.tensor([[1, *output]])
                told_1T = nado.logits_of(nado(tokens_1T[:, :-1], torch.ones_like(tokens_1T[:, :-1])), tokens_1T[:, 1:])
            blame += (-told_1T[0]).tolist()
            violates += [token == BANNED for token in output]
        return float(roc_auc_score(violates, blame))

    whole_sequence, prefixes = ranking(False, td_lambda=1.0), ranking(True, td_lambda=0.5)
    assert prefixes > 0.95
    assert prefixes > whole_sequence + 0.05


def test_importance_weights_make_r_that_of_the_policy(make_nado: MakeNado) -> None:
    """Half the samples violate; under the policy, for which the satisfied ones stand three times over, a quarter do."""
    random = torch.Generator().manual_seed(0)
    rows = [(*torch.randint(4, 24, (3,), generator=random).tolist(), last) for last in (6, BANNED) * 100]

    def r_at_the_prompt(log_weight: float) -> float:
        evidence = []
        for row in rows:
            satisfied = row[-1] != BANNED
            verdicts = {"c": Verdict(float(satisfied))}
            evidence.append(ReadEvidence(Evidence((1,), row, verdicts, log_weight if satisfied else 0.0), None))
        nado = make_nado()
        _fit(nado, evidence, epochs=6)
        tokens_1T = torch.tensor([[1]])
        with torch.no_grad():
            return float(nado(tokens_1T, torch.ones_like(tokens_1T)).value_BT.sigmoid())

    assert r_at_the_prompt(math.log(3.0)) == pytest.approx(0.75, abs=0.06)
    assert r_at_the_prompt(0.0) == pytest.approx(0.5, abs=0.06)


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
        item.tokens_CK, item.log_p_CK = likely_tokens(torch.full((3, 24), 1 / 24).log(), random)
        evidence.append(item)
    evidence += toy_evidence(40, length=3, seed=3)
    nado = make_nado()
    _fit(nado, evidence, epochs=16)
    told = _others(_r_of_next(nado, [1]))
    assert told.mean() > 0.6  # what the rows themselves would say: 0.1
