"""How likely the policy finds outputs that something else drew: one pass over prompt and output (teacher forcing).

B batch · T time · V vocabulary · N output tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adhere.errors import SamplingError
from adhere.models.frozen import next_token_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = Sequence[int]

_LOGITS_AT_ONCE = 2**26

LARGEST_GAP = 0.25
"""Nats a token, in the mean over the outputs compared: far more than rounding makes."""
COMPARED = 4
"""Outputs that are read here as well, each time an engine was given other weights."""


@torch.no_grad()
def forced_log_probabilities(model: PreTrainedModel, outputs: Sequence[tuple[Ids, Ids]]) -> list[Tensor]:
    """log p of every token of every output, given its prompt and the tokens before.

    Args:
        model: in eval mode.
        outputs: (ids of the prompt, at least one; ids of the output).

    Returns:
        for each output, float64 [N] on the CPU.
    """
    longest = max((len(prompt) + len(output) for prompt, output in outputs), default=1)
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    rows = max(1, _LOGITS_AT_ONCE // (longest * vocabulary))
    found: list[Tensor] = []
    for start in range(0, len(outputs), rows):
        part = outputs[start : start + rows]
        tokens = [torch.tensor([*prompt, *output]) for prompt, output in part]
        tokens_BT = pad_sequence(tokens, batch_first=True).to(model.device)
        mask_BT = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True).to(model.device)
        logits_BTV = next_token_logits(model, tokens_BT, mask_BT)
        for row, (prompt, output) in enumerate(part):
            logits_NV = logits_BTV[row, len(prompt) - 1 : len(prompt) - 1 + len(output)]
            log_p_NV = torch.log_softmax(logits_NV.float(), -1)
            chosen_N = torch.tensor(list(output), device=model.device, dtype=torch.long)
            found.append(log_p_NV.gather(1, chosen_N[:, None]).squeeze(1).double().cpu())
    return found


def require_same_model(
    model: PreTrainedModel, outputs: Sequence[tuple[Ids, Ids]], told: Sequence[float], engine: str, advice: str
) -> float:
    """Make sure that what an engine says of its first few outputs is what the policy says of them.

    Args:
        model: the policy, in eval mode.
        outputs: as for `forced_log_probabilities`; none of the outputs is empty.
        told: log-probability of each, as the engine says.
        engine: for the message: what drew them.
        advice: for the message: what to look at.

    Returns:
        how far the two are apart, in nats a token.

    Raises:
        SamplingError: further than `LARGEST_GAP`.
    """
    part = outputs[:COMPARED]
    here = forced_log_probabilities(model, part)
    gaps = [
        abs(float(log_p_N.sum()) - said) / len(output)
        for log_p_N, (_, output), said in zip(here, part, told[:COMPARED], strict=True)
    ]
    gap = sum(gaps) / len(gaps)
    if not gap <= LARGEST_GAP:  # NaN too
        raise SamplingError(
            f"{engine} finds its outputs {gap:.2f} nats a token more or less likely than the policy does (rounding makes less "
            f"than {LARGEST_GAP}), so it does not draw from the policy: {advice}"
        )
    return gap
