"""What NADO says of the prefixes of a batch, at the positions that predict a token of an output, and what they count.

B batch · V vocabulary · R rank · N output positions of the batch, taken together
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from adhere.functional.prefixes import prefix_weights
from adhere.functional.target import log_tilt
from adhere.guidance.constraint import Constraint
from adhere.models.nado import Nado

if TYPE_CHECKING:
    from adhere.training.loss import Batch


@dataclass(frozen=True, slots=True)
class PrefixReading:
    """R of one constraint, in the low-rank form from which that of any next token follows."""

    nado: Nado
    target: float  # δ of the tilt
    value_N: Tensor  # logit of R(prefix)
    key_NR: Tensor
    satisfaction_N: Tensor  # r of the prompt
    next_N: Tensor  # the token that follows
    known_N: Tensor  # bool: R of the token that follows is known, whatever NADO says of it
    known_r_N: Tensor  # and is this
    log_w_prefix_N: Tensor

    def log_w(self) -> Tensor:
        """log W of every next token: [N, V]."""
        log_r_NV = logsigmoid(self.nado.next_logits(self.value_N, self.key_NR))
        log_r_NV[self.known_N, self.next_N[self.known_N]] = self.known_r_N[self.known_N].log()
        return log_tilt(log_r_NV, self.satisfaction_N, self.target)

    def log_w_next(self) -> Tensor:
        """log W of the token that follows: [N]."""
        table_VR, bias_V = self.nado.token_table()
        bilinear_N = (self.key_NR * table_VR[self.next_N]).sum(-1)
        log_r_N = logsigmoid(self.value_N + bilinear_N + bias_V[self.next_N])
        log_r_N = torch.where(self.known_N, self.known_r_N.log(), log_r_N)
        return log_tilt(log_r_N, self.satisfaction_N, self.target)


@torch.no_grad()
def read_prefixes(
    nado: Nado, constraint: Constraint, number: int, batch: Batch, features_BTD: Tensor | None
) -> PrefixReading:
    """One pass of a constraint's NADO.

    Args:
        number: of the constraint in the batch.
        features_BTD: hidden states of the frozen model; None when NADO reads tokens.
    """
    features = batch.input_ids_BT if nado.reads_tokens else features_BTD
    assert features is not None
    state = nado(features, batch.attention_mask_BT)
    first_B = batch.output_BT.int().argmax(1)
    satisfaction_B = state.value_BT.gather(1, first_B[:, None]).squeeze(1).sigmoid()
    row_N = batch.output_BT.nonzero()[:, 0]
    token_N = (batch.output_BT.cumsum(1) - 1)[batch.output_BT]  # which token of the output comes next
    value_N, satisfaction_N = state.value_BT[batch.output_BT], satisfaction_B[row_N]
    return PrefixReading(
        nado=nado,
        target=constraint.tilt_target,
        value_N=value_N,
        key_NR=state.key_BTR[batch.output_BT],
        satisfaction_N=satisfaction_N,
        next_N=batch.next_BT[batch.output_BT],
        known_N=token_N == batch.violates_at_BK[row_N, number],
        known_r_N=batch.score_BK[row_N, number],
        log_w_prefix_N=log_tilt(logsigmoid(value_N), satisfaction_N, constraint.tilt_target),
    )


def position_weights(
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
