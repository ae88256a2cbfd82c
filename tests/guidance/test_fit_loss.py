"""The loss that NADO is fitted by, against a twin that goes through the sequences one by one and one prefix at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from adhere.guidance import fit as fitting
from adhere.guidance.config import FitConfig
from adhere.guidance.evidence import Evidence, ReadEvidence
from adhere.guidance.likely_tokens import likely_tokens
from adhere.models.nado import Nado
from adhere.records import Verdict

MakeNado = Callable[[], Nado]

ITEMS = [
    # A violation at the third token; one at the first; none; a soft score without prefix scores; corpus rows.
    Evidence((1, 2), (5, 6, 3, 7), {"c": Verdict(0.0, (1.0, 1.0, 1.0, 0.0, 0.0))}, log_importance=0.4),
    Evidence((4,), (3, 9), {"c": Verdict(0.0, (1.0, 0.0, 0.0))}),
    Evidence((1, 2, 8, 9), (7,), {"c": Verdict(1.0)}, log_importance=-0.5),
    Evidence((6, 6), (8, 9, 10), {"c": Verdict(0.3)}),
    Evidence((1,), (9, 3, 8, 8, 2), {"c": Verdict(0.0, (1.0, 1.0, 0.0, 0.0, 0.0, 0.0))}, on_policy=False),
    Evidence((2, 1), (9, 8), {"c": Verdict(1.0)}, on_policy=False),
]


def _nado(make_nado: MakeNado) -> Nado:
    nado = make_nado()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in nado.parameters():  # a fresh one says the same of everything
            weight.normal_(0, 0.3)
    return nado


def _ready(asked: bool) -> list[ReadEvidence]:
    random = torch.Generator().manual_seed(2)
    ready = [ReadEvidence(item, None) for item in ITEMS]
    for item in ready[::2] if asked else []:
        first = len(item.evidence.prompt_ids) - 1
        item.asked_C = [first, first + len(item.evidence.output_ids) - 1]
        logits_CV = torch.randn(2, 24, generator=random)
        item.tokens_CK, item.log_p_CK = likely_tokens(logits_CV.log_softmax(-1), random)
    return ready


def _state(nado: Nado, prefix: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """R at a prefix, and of each of its next tokens [V]."""
    tokens_1T = torch.tensor([prefix])
    state = nado(tokens_1T, torch.ones_like(tokens_1T))
    embeddings_VD = nado.embeddings_VD * nado.scale
    logit_V = (
        state.value_BT[0, -1] + nado.project(embeddings_VD) @ state.key_BTR[0, -1] + nado.bias(embeddings_VD)[:, 0]
    )
    return state.value_BT[0, -1].sigmoid(), logit_V.sigmoid()


def _twin(nado: Nado, items: list[ReadEvidence], config: FitConfig) -> torch.Tensor:
    value, value_weight, following, following_weight, consistency = [], [], [], [], []
    for read in items:
        item, verdict = read.evidence, read.evidence.verdicts["c"]
        score, scores = verdict.score, verdict.prefix_scores
        assert score is not None
        count, weight = len(item.output_ids), torch.tensor(item.log_importance).exp()
        states = [_state(nado, item.prompt_ids + item.output_ids[:n]) for n in range(count + 1)]
        settled = [n == count or (scores is not None and all(s < 0.5 for s in scores[n:])) for n in range(count + 1)]
        known = [item.on_policy or settled[n] for n in range(count + 1)]
        target = torch.zeros(count + 1)
        for n in range(count, -1, -1):
            if settled[n]:
                target[n] = score
            else:
                target[n] = (1 - config.td_lambda) * states[n + 1][0].detach() + config.td_lambda * target[n + 1]
        for n, (r, _) in enumerate(states):
            if known[n]:
                value.append(weight * binary_cross_entropy(r, target[n]))
                value_weight.append(weight)
        for n in range(count):
            learned = target[n + 1] if known[n + 1] else states[n + 1][0].detach()
            following.append(weight * binary_cross_entropy(states[n][1][item.output_ids[n]], learned))
            following_weight.append(weight)
        for position, log_p_V in zip(read.asked_C, [] if read.log_p_CK is None else read.log_p_CK, strict=True):
            r, r_next_V = states[position + 1 - len(item.prompt_ids)]
            average = (log_p_V.exp() * r_next_V).sum().detach()
            consistency.append(average * (average / r).log() + (1 - average) * ((1 - average) / (1 - r)).log())
    loss = torch.stack(value).sum() / sum(value_weight) + torch.stack(following).sum() / sum(following_weight)
    return loss + config.consistency_weight * torch.stack(consistency).mean() if consistency else loss


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("asked", [True, False])
def test_the_loss_and_its_gradient_are_those_of_the_formulas(
    make_nado: MakeNado, td_lambda: float, asked: bool
) -> None:
    nado, config = _nado(make_nado), FitConfig(td_lambda=td_lambda, consistency_weight=0.7)
    weights = list(nado.parameters())
    twin = _twin(nado, _ready(asked), config)
    expected = torch.autograd.grad(twin, weights)
    loss = fitting._loss(nado, _ready(asked), "c", config, torch.device("cpu"))
    found = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(loss, twin, atol=1e-5, rtol=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_an_importance_weight_counts_at_most_ten_times(make_nado: MakeNado) -> None:
    def loss(log_importance: float) -> float:
        items = [ReadEvidence(dataclasses.replace(ITEMS[0], log_importance=log_importance), None), *_ready(False)[1:4]]
        return fitting._loss(_nado(make_nado), items, "c", FitConfig(), torch.device("cpu")).item()

    assert loss(50.0) == pytest.approx(loss(math.log(10)), rel=1e-6)
    assert loss(2.0) != pytest.approx(loss(math.log(10)), rel=1e-6)
