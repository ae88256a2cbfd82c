"""Reading R off a fitted NADO: which word of an output puts the constraint at risk.

B batch · T time
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import Nado

TokenIds = Sequence[int]


@torch.no_grad()
def satisfaction_by_token(
    nado: Nado, reference: FrozenModel, outputs: Sequence[tuple[TokenIds, TokenIds]], batch_size: int = 16
) -> list[list[float]]:
    """R(prompt, y_≤i) for every token y_i of every output: the expected satisfaction once that token is written.

    It is the next-token term, told from the prefix before: the same number that tilts the choice of the token in q*.

    Args:
        nado: of one constraint.
        reference: the frozen model it was fitted on.
        outputs: (prompt's token ids, output's token ids); the prompt is never empty.

    Returns:
        for each output, a probability for each of its tokens.
    """
    told: list[list[float]] = []
    for start in range(0, len(outputs), batch_size):
        part = outputs[start : start + batch_size]
        with reference.lent() as model:
            tokens_BT, mask_BT = _padded(part, model.device)
            features_BT = tokens_BT if nado.reads_tokens else hidden_states(model, tokens_BT, mask_BT)
        next_BT = torch.nn.functional.pad(tokens_BT[:, 1:], (0, 1))
        r_BT = nado.logits_of(nado(features_BT, mask_BT), next_BT).sigmoid().cpu()
        for row, (prompt, output) in enumerate(part):
            told.append(r_BT[row, len(prompt) - 1 : len(prompt) - 1 + len(output)].tolist())
    return told


def _padded(outputs: Sequence[tuple[TokenIds, TokenIds]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor([*prompt, *output], dtype=torch.long) for prompt, output in outputs]
    masks = [torch.ones(len(row), dtype=torch.long) for row in rows]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens_BT.to(device), torch.nn.utils.rnn.pad_sequence(masks, batch_first=True).to(device)
