"""`loss_sums` against a twin that goes through rows and positions one by one, with plain autograd."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from adhere.functional.target import PROBABILITY_FLOOR
from adhere.guidance.constraint import Constraint
from adhere.guidance.guidance import Guidance
from adhere.models.head import find_head, head_input
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.oracles.rules import RegexOracle
from adhere.records import GuidanceVersion
from adhere.training.domains import RowWeights
from adhere.training.loss import Batch, everywhere, loss_sums

V = 32
CONSTRAINTS = [
    Constraint(RegexOracle("a"), target=1.0, weight=2.0, name="hard"),
    Constraint(RegexOracle("b"), target=0.8, weight=0.5, name="soft"),
]
# (tokens, length of the prompt, learn_prompt); two rows of the corpus, one of which is left out, then samples
ROWS = [
    ([5, 6, 7, 8, 9, 31], 2, False),
    ([1, 2, 3], 1, True),
    ([4, 4, 9, 8, 2, 2, 31], 3, False),
    ([7, 1, 30], 1, False),
]


def _batch(
    sampled: int = 0,
    left_out: tuple[int, ...] = (),
    held: str = "all",
    tilted: tuple[int, ...] = (),
    violates: dict[tuple[int, int], tuple[int, float]] | None = None,
) -> Batch:
    """`ROWS`, of which the last `sampled` are the policy's own outputs; `violates` tells (at, score) by (row, constraint)."""
    width = max(len(tokens) for tokens, _, _ in ROWS) + 1  # a column of padding alone
    ids_BT, mask_BT = torch.zeros(len(ROWS), width, dtype=torch.long), torch.zeros(len(ROWS), width, dtype=torch.long)
    learned_BT, output_BT = (torch.zeros(len(ROWS), width, dtype=torch.bool) for _ in range(2))
    sampled_B = torch.arange(len(ROWS)) >= len(ROWS) - sampled
    for b, (tokens, prompt, learn_prompt) in enumerate(ROWS):
        ids_BT[b, : len(tokens)], mask_BT[b, : len(tokens)] = torch.tensor(tokens), 1
        output_BT[b, prompt - 1 : len(tokens) - 1] = True
        if not sampled_B[b] and b not in left_out:
            learned_BT[b, (0 if learn_prompt else prompt - 1) : len(tokens) - 1] = True
    held_BT = output_BT & sampled_B[:, None] if held == "samples" else output_BT
    tilted_B = torch.tensor([b in tilted for b in range(len(ROWS))])
    at_BK, score_BK = torch.full((len(ROWS), 2), -1), torch.ones(len(ROWS), 2)
    for place, (at, score) in (violates or {}).items():
        at_BK[place], score_BK[place] = at, score
    return Batch(
        ids_BT, mask_BT, learned_BT, output_BT, held_BT, sampled_B, tilted_B, torch.zeros(len(ROWS)), at_BK, score_BK
    )


@pytest.fixture
def guidance() -> Guidance:
    embeddings_VD = torch.randn(V, 16, generator=torch.Generator().manual_seed(1))
    nados: dict[str, Nado] = {}
    for number, constraint in enumerate(CONSTRAINTS):
        shape = "frozen" if number == 0 else "own"
        nado = build_nado(NadoConfig(shape=shape, width=8, heads=2, rank=4), embeddings_VD, seed=number)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(number)
            for weight in nado.parameters():  # a fresh one says the same of everything
                weight.normal_(0, 0.4)
        nados[constraint.name] = nado.freeze()
    return Guidance(GuidanceVersion(0, 0), nados)


def _logits(model: LlamaForCausalLM, tokens: list[int]) -> Tensor:
    logits_TV: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits_TV


def _hidden(model: LlamaForCausalLM, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        hidden_BTD: Tensor = model.model(torch.tensor([tokens])).last_hidden_state
    return hidden_BTD


def _tilt(r: Tensor, r0: Tensor, target: float) -> Tensor:
    """W by the definition in method.md §2."""
    if target < 1 and r0 >= target:
        return torch.ones_like(r)
    alpha = target / r0
    beta = (1 - target) / (1 - r0) if target < 1 else 0.0
    return beta + (alpha - beta) * r


def _twin(
    model: LlamaForCausalLM,
    anchor: LlamaForCausalLM | None,
    batch: Batch,
    guidance: Guidance,
    clip: float,
    rows: RowWeights | None = None,
    reference: LlamaForCausalLM | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(Σ corpus CE, Σ_k λ_k Σ KL_k + μ Σ KL(ref ‖ p), Σ KL_k by name), each row alone and without padding."""
    rows = rows or everywhere(CONSTRAINTS, batch.input_ids_BT)
    corpus, weighed = torch.zeros(()), torch.zeros(())
    values = {constraint.name: torch.zeros(()) for constraint in CONSTRAINTS}
    to_weigh: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {constraint.name: [] for constraint in CONSTRAINTS}
    for b, (tokens, prompt, _) in enumerate(ROWS):
        log_p = _logits(model, tokens).log_softmax(-1)
        base = log_p if anchor is None else _logits(anchor, tokens).log_softmax(-1)
        base = base.detach()
        token_weight = torch.ones(len(tokens))
        if reference is not None:
            with torch.no_grad():
                kept = _logits(reference, tokens).log_softmax(-1)
            for t in range(len(tokens) - 1):
                if batch.held_BT[b, t]:
                    weighed = weighed + rows.reference_B[b] * (kept[t].exp() * (kept[t] - log_p[t])).sum()
        for k, constraint in enumerate(CONSTRAINTS):
            if not rows.acts_B[constraint.name][b]:
                continue
            nado = guidance.nados[constraint.name]
            features = torch.tensor([tokens]) if nado.reads_tokens else _hidden(model, tokens)
            with torch.no_grad():
                state = nado(features, torch.ones(1, len(tokens), dtype=torch.long))
                r_T = state.value_BT[0].sigmoid()
                r_next_TV = nado.next_logits(state.value_BT[0], state.key_BTR[0]).sigmoid()
            for t in range(prompt - 1, len(tokens) - 1):
                if t - (prompt - 1) == int(batch.violates_at_BK[b, k]):
                    r_next_TV[t, tokens[t + 1]] = batch.score_BK[b, k].clamp(min=PROBABILITY_FLOOR)
                w_V = _tilt(r_next_TV[t], r_T[prompt - 1], constraint.target)
                w_prefix = _tilt(r_T[t], r_T[prompt - 1], constraint.target)
                token_weight[t] *= (w_V[tokens[t + 1]] / w_prefix).clamp(max=1.0)
                q_V = base[t].exp() * w_V
                q_V = q_V / q_V.sum()
                kl = (q_V * (q_V.log() - log_p[t])).sum()
                if not batch.held_BT[b, t]:
                    continue
                lambda_ = rows.multiplier_B[constraint.name][b]
                if batch.sampled_B[b]:
                    to_weigh[constraint.name].append((w_prefix * batch.log_importance_B[b].exp(), kl, lambda_))
                else:
                    values[constraint.name] = values[constraint.name] + w_prefix.clamp(max=1.0) * kl
                    weighed = weighed + lambda_ * w_prefix.clamp(max=1.0) * kl
        for t in range(len(tokens) - 1):
            if batch.learned_BT[b, t]:
                weight = token_weight[t] if batch.tilted_B[b] else 1.0
                corpus = corpus - rows.corpus_B[b] * weight * log_p[t, tokens[t + 1]]
    for name, triples in to_weigh.items():
        for w, kl, lambda_ in triples:
            mean = torch.stack([w for w, _, _ in triples]).mean()
            values[name] = values[name] + (w / mean).clamp(max=clip) * kl
            weighed = weighed + lambda_ * (w / mean).clamp(max=clip) * kl
    return corpus, weighed, values


BATCHES = {
    "corpus": _batch(),
    "a row left out": _batch(left_out=(0,)),
    "violating rows tilted": _batch(tilted=(0, 1)),
    "violations known": _batch(tilted=(0, 2), violates={(0, 0): (1, 0.0), (0, 1): (0, 0.1), (2, 0): (3, 0.0)}),
    "violations known of samples": _batch(sampled=2, violates={(0, 0): (3, 0.0), (2, 0): (2, 0.0), (2, 1): (1, 0.2)}),
    "samples alone are held": _batch(sampled=2, held="samples"),
    "both are held": _batch(sampled=2),
    "samples of a truncated policy": dataclasses.replace(
        _batch(sampled=2), log_importance_B=torch.tensor([0.0, 0.0, -0.8, 0.6])
    ),
}


@pytest.mark.parametrize("anchored", [False, True], ids=["live", "anchored"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_the_loss_is_corpus_cross_entropy_and_weighted_kl_to_q_star(
    tiny_model: LlamaForCausalLM, guidance: Guidance, batch: Batch, anchored: bool
) -> None:
    anchor = _moved(tiny_model) if anchored else None
    weights = list(tiny_model.parameters())
    corpus, regulariser, values = _twin(tiny_model, anchor, batch, guidance, clip=1.4)
    expected = torch.autograd.grad(corpus / 7 + regulariser / 5, weights)

    output = tiny_model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True)
    anchor_BTV = None
    if anchor is not None:
        with torch.no_grad():
            anchor_BTV = anchor(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    sums = loss_sums(
        output.logits,
        batch,
        guidance,
        CONSTRAINTS,
        output.hidden_states[-1].detach(),
        anchor_BTV,
        prefix_weight_clip=1.4,
    )
    found = torch.autograd.grad(sums.corpus / 7 + sums.regulariser / 5, weights)
    torch.testing.assert_close(sums.corpus, corpus, atol=1e-5, rtol=1e-5)
    for name, value in values.items():
        assert value > 0.05  # there is something to compare
        torch.testing.assert_close(sums.kl[name], value, atol=1e-5, rtol=1e-4)
    if anchored:  # for `live` the number that is minimised is not the KL, only its gradient is
        torch.testing.assert_close(sums.regulariser, regulariser, atol=1e-5, rtol=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


BY_ROW = RowWeights(
    corpus_B=torch.tensor([0.5, 2.0, 0.0, 1.0]),
    reference_B=torch.tensor([0.0, 0.7, 0.0, 1.5]),
    multiplier_B={"hard": torch.tensor([3.0, 0.0, 0.6, 0.0]), "soft": torch.tensor([0.0, 1.1, 2.0, 0.0])},
    acts_B={"hard": torch.tensor([True, False, True, False]), "soft": torch.tensor([False, True, True, False])},
    domain_B=torch.tensor([0, 1, 2, 1]),
    told_apart=("a", "b", "c"),
)
"""Each constraint on some rows, both on one, none on the last, which is held to the reference alone."""


@pytest.mark.parametrize("anchored", [False, True], ids=["live", "anchored"])
@pytest.mark.parametrize("batch", [BATCHES["violating rows tilted"], BATCHES["samples of a truncated policy"]])
def test_each_row_has_its_own_constraints_weights_and_reference(
    tiny_model: LlamaForCausalLM, guidance: Guidance, batch: Batch, anchored: bool
) -> None:
    anchor, reference = _moved(tiny_model) if anchored else None, _moved(tiny_model, 1.7)
    weights = list(tiny_model.parameters())
    corpus, regulariser, values = _twin(tiny_model, anchor, batch, guidance, 1.4, BY_ROW, reference)
    expected = torch.autograd.grad(corpus / 7 + regulariser / 5, weights)

    output = tiny_model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True)
    with torch.no_grad():
        reference_BTV = reference(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        anchor_BTV = None
        if anchor is not None:
            anchor_BTV = anchor(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    sums = loss_sums(
        output.logits, batch, guidance, CONSTRAINTS, output.hidden_states[-1].detach(), anchor_BTV,
        prefix_weight_clip=1.4, rows=BY_ROW, reference_logits_BTV=reference_BTV,
    )  # fmt: skip
    found = torch.autograd.grad(sums.corpus / 7 + sums.regulariser / 5, weights)
    torch.testing.assert_close(sums.corpus, corpus, atol=1e-5, rtol=1e-5)
    for name, value in values.items():
        assert value > 0.05
        torch.testing.assert_close(sums.kl[name], value, atol=1e-5, rtol=1e-4)
    if anchored:
        torch.testing.assert_close(sums.regulariser, regulariser, atol=1e-5, rtol=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_what_is_told_of_a_domain_is_what_its_rows_alone_would_give(
    tiny_model: LlamaForCausalLM, guidance: Guidance
) -> None:
    batch, reference = _batch(tilted=(0, 1)), _moved(tiny_model, 1.7)
    with torch.no_grad():
        output = tiny_model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True)
        reference_BTV = reference(batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        sums = loss_sums(
            output.logits, batch, guidance, CONSTRAINTS, output.hidden_states[-1], None,
            prefix_weight_clip=10.0, rows=BY_ROW, reference_logits_BTV=reference_BTV,
        )  # fmt: skip
    assert sums.by_domain is not None
    told = sums.by_domain.by_name()
    kept = torch.ones(len(ROWS))
    for number, name in enumerate("abc"):
        alone = dataclasses.replace(
            BY_ROW,
            corpus_B=(number == BY_ROW.domain_B).float(),
            reference_B=(number == BY_ROW.domain_B) * (BY_ROW.reference_B > 0).float(),
            multiplier_B={"hard": kept, "soft": kept},
            acts_B={k: acts & (number == BY_ROW.domain_B) for k, acts in BY_ROW.acts_B.items()},
        )
        # The tilt of a row is that of its own domain: nothing else acts on it here either.
        corpus, regulariser, values = _twin(tiny_model, None, batch, guidance, 10.0, alone, reference)
        kl = float(sum(values.values()).detach())  # type: ignore[union-attr]
        rows = (number == BY_ROW.domain_B)[:, None]
        assert told[name]["corpus"] == pytest.approx(float(corpus.detach()), rel=1e-4)
        assert told[name]["kl"] == pytest.approx(kl, rel=1e-4, abs=1e-6)
        assert told[name]["reference"] == pytest.approx(float(regulariser.detach()) - kl, rel=1e-3, abs=1e-4)
        assert told[name]["learned"] == int((batch.learned_BT & rows).sum())
        assert told[name]["held"] == int((batch.held_BT & rows).sum())
    assert told["a"]["reference"] == 0 < told["b"]["reference"]


def _moved(model: LlamaForCausalLM, factor: float = 0.5) -> LlamaForCausalLM:
    anchor = copy.deepcopy(model)
    with torch.no_grad():
        anchor.lm_head.weight.mul_(factor)
    return anchor


def _sums(model: LlamaForCausalLM, batch: Batch, guidance: Guidance) -> tuple[Tensor, Tensor, Tensor]:
    output = model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True)
    sums = loss_sums(
        output.logits, batch, guidance, CONSTRAINTS, output.hidden_states[-1].detach(), None, prefix_weight_clip=10.0
    )
    return (
        sums.corpus.detach(),
        torch.as_tensor(sums.regulariser).detach(),
        torch.stack(list(sums.kl.values()) or [torch.zeros(())]),
    )


def test_the_first_output_token_and_the_end_of_sequence_are_held(
    tiny_model: LlamaForCausalLM, guidance: Guidance
) -> None:
    """The off-by-one that skips the first output token (method.md §7)."""
    batch = _batch()
    assert [row.nonzero().flatten().tolist() for row in batch.held_BT] == [[1, 2, 3, 4], [0, 1], [2, 3, 4, 5], [0, 1]]
    whole = _sums(tiny_model, batch, guidance)[2]
    for b, t in ((0, 1), (0, 4)):
        held_BT = batch.held_BT.clone()
        held_BT[b, t] = False
        assert (_sums(tiny_model, dataclasses.replace(batch, held_BT=held_BT), guidance)[2] < whole).all()


def test_the_token_that_is_known_to_violate_is_not_learned(tiny_model: LlamaForCausalLM, guidance: Guidance) -> None:
    """Whatever NADO thinks of it."""
    known = _batch(tilted=(0, 1), left_out=(1,), violates={(0, 0): (2, 0.0)})
    learned_BT = known.learned_BT.clone()
    learned_BT[0, 3] = False  # the position that predicts the third output token
    without = dataclasses.replace(known, learned_BT=learned_BT)
    assert torch.equal(_sums(tiny_model, known, guidance)[0], _sums(tiny_model, without, guidance)[0])
    unknown = dataclasses.replace(known, violates_at_BK=torch.full_like(known.violates_at_BK, -1))
    assert _sums(tiny_model, unknown, guidance)[0] > _sums(tiny_model, known, guidance)[0] + 1e-3


def test_what_stands_in_the_padding_changes_nothing(tiny_model: LlamaForCausalLM, guidance: Guidance) -> None:
    batch = _batch(sampled=1)
    other = dataclasses.replace(batch, input_ids_BT=torch.where(batch.attention_mask_BT == 0, 17, batch.input_ids_BT))
    for one, two in zip(_sums(tiny_model, batch, guidance), _sums(tiny_model, other, guidance), strict=True):
        torch.testing.assert_close(one, two)


def test_nothing_held_is_no_regulariser(tiny_model: LlamaForCausalLM, guidance: Guidance) -> None:
    batch = _batch(held="samples")
    corpus, regulariser, kl = _sums(tiny_model, batch, guidance)
    assert corpus > 0 and regulariser == 0 and kl.sum() == 0


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("by_row", [False, True], ids=["everywhere", "by row"])
def test_the_fused_head_gives_the_same_loss_gradients_and_log(
    tiny_model: LlamaForCausalLM, guidance: Guidance, batch: Batch, by_row: bool
) -> None:
    rows = BY_ROW if by_row else None
    weights, head, reference_head = (
        list(tiny_model.parameters()),
        find_head(tiny_model),
        find_head(_moved(tiny_model, 1.7)),
    )
    assert head is not None and reference_head is not None
    output = tiny_model(batch.input_ids_BT, attention_mask=batch.attention_mask_BT, output_hidden_states=True)
    features_BTD = output.hidden_states[-1].detach()
    read = head_input(tiny_model, tiny_model, head, batch.input_ids_BT, batch.attention_mask_BT)
    whole, fused = (
        loss_sums(
            each, batch, guidance, CONSTRAINTS, features_BTD, None,
            prefix_weight_clip=1.4, rows=rows, counts=(7.0, 5.0), **more,
        )
        for each, more in (
            (output.logits, {"reference_logits_BTV": (features_BTD @ reference_head.weight_VD.T).detach()}),
            (read, {"reference_head": reference_head}),
        )
    )  # fmt: skip
    torch.testing.assert_close(fused.over(7.0, 5.0), whole.over(7.0, 5.0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused.corpus, whole.corpus, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused.regulariser, whole.regulariser, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused.kl, whole.kl, atol=1e-5, rtol=1e-4)
    if rows is not None:
        assert fused.by_domain is not None and whole.by_domain is not None
        for name, expected in whole.by_domain.by_name().items():
            assert fused.by_domain.by_name()[name] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    found, expected_gradients = (
        torch.autograd.grad(sums.over(7.0, 5.0), weights, retain_graph=True) for sums in (fused, whole)
    )
    for one, other in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
