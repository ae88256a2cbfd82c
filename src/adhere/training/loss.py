"""The loss of one micro-batch: L_LLM + Σ_k λ_k · KL_k, as sums that the trainer divides by the counts of the whole step.

Each row may count otherwise (`RowWeights`: λ_k and the weight of L_LLM by domain), and some may be held to the reference
model instead: + μ · KL(reference ‖ p).

B batch · T time · V vocabulary · D width of the language model · K constraints
N output positions of the batch, taken together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from adhere.functional.kl import constrained_kl, kl_to
from adhere.functional.prefixes import prefix_weights
from adhere.functional.target import log_tilt
from adhere.guidance.constraint import Constraint
from adhere.guidance.guidance import Guidance
from adhere.models.nado import Nado
from adhere.training.domains import DomainSums, RowWeights


@dataclass(frozen=True, slots=True)
class Batch:
    """What a micro-batch holds beside the model's logits.

    Position t predicts token t + 1. `held_BT` are the positions at which the policy is held to q*; `learned_BT` are those
    the corpus loss counts, with a weight of `row_weight_B` for the rows; rows with `sampled_B` are the policy's own outputs.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    learned_BT: Tensor  # bool
    output_BT: Tensor  # bool: positions that predict a token of the output
    held_BT: Tensor  # bool: the output positions at which the regulariser counts
    sampled_B: Tensor  # bool
    tilted_B: Tensor  # bool: rows whose corpus loss is weighed by the tilt
    log_importance_B: Tensor  # of sampled rows that were not drawn from the policy as it is (temperature, top-p, top-k)
    violates_at_BK: Tensor  # by constraint: which output token is known to make the row violate
    score_BK: Tensor  # by constraint: the row's score, which is R once that token is written

    @property
    def next_BT(self) -> Tensor:
        """The token that each position predicts; the last one has none and gets token 0."""
        return torch.nn.functional.pad(self.input_ids_BT[:, 1:], (0, 1))


@dataclass(slots=True)
class LossSums:
    """Sums over a micro-batch."""

    corpus: Tensor
    regulariser: Tensor  # Σ_k λ_k · Σ surrogate + μ · Σ KL(reference ‖ p)
    kl: dict[str, Tensor] = field(default_factory=dict)  # Σ of the KL's value, by constraint
    by_domain: DomainSums | None = None


def loss_sums(
    logits_BTV: Tensor,
    batch: Batch,
    guidance: Guidance,
    constraints: Sequence[Constraint],
    features_BTD: Tensor | None,
    anchor_logits_BTV: Tensor | None,
    *,
    prefix_weight_clip: float,
    log_means: Mapping[str, Tensor] | None = None,
    rows: RowWeights | None = None,
    reference_logits_BTV: Tensor | None = None,
) -> LossSums:
    """Both parts of the loss.

    Args:
        logits_BTV: of the policy, with gradient.
        batch: what the positions are.
        guidance: the NADO of each constraint.
        constraints: targets and weights.
        features_BTD: hidden states of the frozen model; None when NADO reads tokens.
        anchor_logits_BTV: logits of the model that q* is built on; None for the policy itself (`live`).
        prefix_weight_clip: largest weight of a sampled prefix.
        log_means: by constraint, the log of the mean weight that sampled prefixes are divided by (`SampleRows.log_means`),
            so that they do not depend on how the samples are cut into batches; None for the mean of this batch.
        rows: what each row counts; without it every constraint acts on all of them with its own weight.
        reference_logits_BTV: logits of the model before fine-tuning, needed where a row is held to it.
    """
    rows = rows or everywhere(constraints, batch.input_ids_BT)
    logits_NV = logits_BTV[batch.output_BT]
    anchor_NV = None if anchor_logits_BTV is None else anchor_logits_BTV[batch.output_BT].float()
    row_N = batch.output_BT.nonzero()[:, 0]
    held_N, next_N, domain_N = batch.held_BT[batch.output_BT], batch.next_BT[batch.output_BT], rows.domain_B[row_N]
    tilt_N = torch.zeros_like(next_N, dtype=torch.float32)
    sums = LossSums(logits_BTV.new_zeros(()), logits_BTV.new_zeros((), dtype=torch.float32))
    sums.by_domain = by_domain = DomainSums(rows)
    by_domain.add("held", domain_N, held_N)
    for number, constraint in enumerate(constraints):
        nado, acts_N = guidance.nados[constraint.name], rows.acts_B[constraint.name][row_N]
        with torch.no_grad():
            log_w_NV, log_w_prefix_N = _log_w(nado, constraint, number, batch, features_BTD)
            tilt_N += acts_N * (log_w_NV.gather(1, next_N[:, None]).squeeze(1) - log_w_prefix_N).clamp_max(0.0)
            weight_N = _position_weights(
                batch, held_N & acts_N, log_w_prefix_N, prefix_weight_clip, (log_means or {}).get(constraint.name)
            )
        if not bool((held_N & acts_N).any()):
            continue
        surrogate_N, value_N = constrained_kl(logits_NV, log_w_NV, anchor_NV)
        lambda_N = rows.multiplier_B[constraint.name][row_N]
        sums.regulariser = sums.regulariser + (lambda_N * weight_N * surrogate_N).sum()
        sums.kl[constraint.name] = (weight_N * value_N.detach()).sum()
        by_domain.add("kl", domain_N, weight_N * value_N)
    kept_N = held_N & (rows.reference_B[row_N] > 0)
    if bool(kept_N.any()):
        assert reference_logits_BTV is not None
        # At every held position alike, whoever wrote the prefix: wherever the policy may come it is not to move.
        value_N = kl_to(logits_NV[kept_N], reference_logits_BTV[batch.output_BT][kept_N])
        sums.regulariser = sums.regulariser + (rows.reference_B[row_N][kept_N] * value_N).sum()
        by_domain.add("reference", domain_N[kept_N], value_N)
    weight_BT = batch.learned_BT.float()
    # How much less likely the token is under q* than under p, min(1, W(prefix · v) / W(prefix)): the token that violates
    # is not learned, what stands round it is.
    weight_BT[batch.output_BT] *= torch.where(batch.tilted_B[row_N], tilt_N.exp(), 1.0)
    losses_BT = cross_entropy(logits_BTV[:, :-1].float().transpose(1, 2), batch.next_BT[:, :-1], reduction="none")
    losses_BT = weight_BT[:, :-1] * losses_BT
    sums.corpus = (rows.corpus_B[:, None] * losses_BT).sum()
    by_domain.add("corpus", rows.domain_B, losses_BT.sum(1))
    by_domain.add("learned", rows.domain_B, batch.learned_BT.sum(1))
    return sums


def everywhere(constraints: Sequence[Constraint], like: Tensor) -> RowWeights:
    """Row weights of a corpus without domains, for a batch whose first axis is that of `like`."""
    ones_B = torch.ones(len(like), device=like.device)
    return RowWeights(
        ones_B,
        torch.zeros_like(ones_B),
        {constraint.name: constraint.weight * ones_B for constraint in constraints},
        {constraint.name: ones_B.bool() for constraint in constraints},
        torch.zeros(len(like), dtype=torch.long, device=like.device),
    )


def _log_w(
    nado: Nado, constraint: Constraint, number: int, batch: Batch, features_BTD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """log W of every next token [N, V] and of the prefix itself [N], at the output positions.

    At the token that is known to violate R is the row's score, whatever NADO says of it.
    """
    features = batch.input_ids_BT if nado.reads_tokens else features_BTD
    assert features is not None
    state = nado(features, batch.attention_mask_BT)
    first_B = batch.output_BT.int().argmax(1)
    satisfaction_B = state.value_BT.gather(1, first_B[:, None]).squeeze(1).sigmoid()
    row_N = batch.output_BT.nonzero()[:, 0]
    value_N, key_NR = state.value_BT[batch.output_BT], state.key_BTR[batch.output_BT]
    log_r_NV = logsigmoid(nado.next_logits(value_N, key_NR))
    token_N = (batch.output_BT.cumsum(1) - 1)[batch.output_BT]  # which token of the output comes next
    known_N = token_N == batch.violates_at_BK[row_N, number]
    log_r_NV[known_N, batch.next_BT[batch.output_BT][known_N]] = batch.score_BK[row_N, number].log()[known_N]
    log_w_NV = log_tilt(log_r_NV, satisfaction_B[row_N], constraint.tilt_target)
    return log_w_NV, log_tilt(logsigmoid(value_N), satisfaction_B[row_N], constraint.tilt_target)


def _position_weights(
    batch: Batch, held_N: Tensor, log_w_prefix_N: Tensor, clip: float, log_mean: Tensor | None
) -> Tensor:
    """How much each position counts.

    At sampled positions the weight that turns prefixes of p into prefixes of q*. Corpus prefixes come from neither: they
    count fully while q* is at least as likely as p to write them, and ever less once they have violated. q* never goes
    through such a prefix, and what NADO says of the tokens after it is the ratio of two numbers near 0.
    """
    row_N = batch.output_BT.nonzero()[:, 0]
    sampled_N = batch.sampled_B[row_N]
    weight_N = held_N * log_w_prefix_N.clamp_max(0.0).exp()
    if bool(sampled_N.any()):
        counted_N = held_N & sampled_N
        log_weight_N = (log_w_prefix_N + batch.log_importance_B[row_N])[counted_N]
        weight_N[counted_N] = prefix_weights(log_weight_N[None], counted_N[None, counted_N], clip, log_mean=log_mean)[0]
    return weight_N
