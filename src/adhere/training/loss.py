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
from torch.nn.functional import cross_entropy

from adhere.functional.head import Head
from adhere.functional.kl import constrained_kl, kl_to
from adhere.guidance.constraint import Constraint
from adhere.guidance.guidance import Guidance
from adhere.models.head import HeadInput
from adhere.training.domains import DomainSums, RowWeights
from adhere.training.fused_parts import Held, fused_parts
from adhere.training.prefix_reading import position_weights, read_prefixes


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
    reference_kl: Tensor | None = None  # Σ KL(reference ‖ p) without its weights, where a row is held to the reference
    by_domain: DomainSums | None = None
    loss: Tensor | None = None  # of the fused head: both over their counts, and all that has a gradient

    def over(self, corpus: float, held: float) -> Tensor:
        """The loss: each part over its count."""
        return self.corpus / corpus + self.regulariser / held if self.loss is None else self.loss


def loss_sums(
    read: Tensor | HeadInput,
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
    counts: tuple[float, float] = (1.0, 1.0),
    reference_head: Head | None = None,
) -> LossSums:
    """Both parts of the loss.

    Args:
        read: logits of the policy [B, T, V], with gradient; or what its head has read, for the fused head, which knows no
            anchor.
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
        counts: what the parts will be divided by (`LossSums.over`), which the fused head must know beforehand.
        reference_head: for the fused head, instead of the reference's logits: what makes them of `features_BTD`.
    """
    rows = rows or everywhere(constraints, batch.input_ids_BT)
    row_N = batch.output_BT.nonzero()[:, 0]
    held_N, next_N, domain_N = batch.held_BT[batch.output_BT], batch.next_BT[batch.output_BT], rows.domain_B[row_N]
    tilt_N = torch.zeros_like(next_N, dtype=torch.float32)
    weights, held = {}, []
    for number, constraint in enumerate(constraints):
        acts_N = rows.acts_B[constraint.name][row_N]
        reading = read_prefixes(guidance.nados[constraint.name], constraint, number, batch, features_BTD)
        tilt_N += acts_N * (reading.log_w_next() - reading.log_w_prefix_N).clamp_max(0.0)
        if bool((held_N & acts_N).any()):
            weights[constraint.name] = weight_N = position_weights(
                batch,
                held_N & acts_N,
                reading.log_w_prefix_N,
                prefix_weight_clip,
                (log_means or {}).get(constraint.name),
            )
            held.append(Held(reading, held_N & acts_N, rows.multiplier_B[constraint.name][row_N] * weight_N))
    weight_BT = batch.learned_BT.float()
    # How much less likely the token is under q* than under p, min(1, W(prefix · v) / W(prefix)): the token that violates
    # is not learned, what stands round it is.
    weight_BT[batch.output_BT] *= torch.where(batch.tilted_B[row_N], tilt_N.exp(), 1.0)
    weighed_BT, loss = rows.corpus_B[:, None] * weight_BT, None
    kept_N = held_N & (rows.reference_B[row_N] > 0)
    if isinstance(read, HeadInput):
        assert anchor_logits_BTV is None and reference_logits_BTV is None
        reference = None
        if bool(kept_N.any()):
            assert features_BTD is not None and reference_head is not None
            reference = (features_BTD, reference_head)
        parts = fused_parts(read, batch, weighed_BT, held, counts, reference, rows.reference_B[row_N] * held_N)
        loss, losses_BT, pairs, near_N = parts
        near_N = near_N[kept_N]
    else:
        # Flat, with the vocabulary last: along another axis torch adds one by one, 5e-5 a token too low for 49,152 of them.
        losses_N = cross_entropy(read.float().flatten(0, 1), batch.next_BT.flatten(), reduction="none")
        losses_BT = losses_N.view_as(weight_BT)
        logits_NV = read[batch.output_BT]
        anchor_NV = None if anchor_logits_BTV is None else anchor_logits_BTV[batch.output_BT].float()
        pairs, near_N = [constrained_kl(logits_NV, each.reading.log_w(), anchor_NV) for each in held], logits_NV[:0, 0]
        if bool(kept_N.any()):
            assert reference_logits_BTV is not None
            near_N = kl_to(logits_NV[kept_N], reference_logits_BTV[batch.output_BT][kept_N])
    sums = LossSums((weighed_BT * losses_BT).sum(), weighed_BT.new_zeros(()), loss=loss)
    sums.by_domain = by_domain = DomainSums(rows)
    by_domain.add("held", domain_N, held_N)
    by_domain.add("corpus", rows.domain_B, (weight_BT * losses_BT).sum(1))
    by_domain.add("learned", rows.domain_B, batch.learned_BT.sum(1))
    for (name, weight_N), each, (surrogate_N, value_N) in zip(weights.items(), held, pairs, strict=True):
        sums.regulariser = sums.regulariser + (each.weight_N * surrogate_N).sum()
        sums.kl[name] = (weight_N * value_N.detach()).sum()
        by_domain.add("kl", domain_N, weight_N * value_N)
    if bool(kept_N.any()):
        # At every held position alike, whoever wrote the prefix: wherever the policy may come it is not to move.
        sums.regulariser = sums.regulariser + (rows.reference_B[row_N][kept_N] * near_N).sum()
        sums.reference_kl = near_N.detach().sum()
        by_domain.add("reference", domain_N[kept_N], near_N)
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
