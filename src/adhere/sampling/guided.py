"""Decode-time guidance: NADO as a transformers LogitsProcessor.

The distribution chosen from is q*: next-token logits + log W.  (method.md §3, last line)

    B batch · T time · V vocabulary · D width of the language model
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from adhere.functional.target import log_tilt
from adhere.models.frozen import FrozenModel
from adhere.models.nado import Nado


class NadoGuide(LogitsProcessor):
    """Tilts next-token scores towards outputs that satisfy the constraints.

    Use one for each batch given to `generate`: it keeps the frozen model's cache from step to step.

    Args:
        nados: (auxiliary model, target δ) of each constraint.
        reference: the frozen model whose hidden states the auxiliary models read.
        prompt_mask_BT: attention mask of the (left-padded) prompts.
        strength: multiplies log W; 1 is q*.
    """

    def __init__(
        self,
        nados: Sequence[tuple[Nado, float]],
        reference: FrozenModel,
        prompt_mask_BT: Tensor,
        strength: float = 1.0,
    ) -> None:
        self._nados, self._reference, self._strength = list(nados), reference, strength
        self._mask_BT = prompt_mask_BT
        self._features_BTD: Tensor | None = None
        self._cache: object | None = None
        self._satisfaction: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        with torch.no_grad():
            grown = input_ids.shape[1] - self._mask_BT.shape[1]
            if grown:
                self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(self._mask_BT), grown)], 1)
            features_BTD = self._read(input_ids)
            tilted_BV = scores.float()
            for position, (nado, target) in enumerate(self._nados):
                state = nado(input_ids if nado.reads_tokens else features_BTD, self._mask_BT)
                value_B = state.value_BT[:, -1]
                if len(self._satisfaction) <= position:
                    self._satisfaction.append(value_B.sigmoid())
                logit_BV = nado.next_logits(value_B, state.key_BTR[:, -1])
                log_w_BV = log_tilt(torch.nn.functional.logsigmoid(logit_BV), self._satisfaction[position], target)
                tilted_BV = tilted_BV + self._strength * log_w_BV
        return tilted_BV  # type: ignore[return-value]

    def _read(self, input_ids_BT: Tensor) -> Tensor:
        """Hidden states of the frozen model for the whole prefix, computed for the new tokens only."""
        if all(nado.reads_tokens for nado, _ in self._nados):
            return input_ids_BT
        seen = 0 if self._features_BTD is None else self._features_BTD.shape[1]
        position_BT = (self._mask_BT.long().cumsum(1) - 1).clamp_min(0)
        with self._reference.lent() as model:
            output = model(
                input_ids=input_ids_BT[:, seen:],
                attention_mask=self._mask_BT,
                position_ids=position_BT[:, seen:],
                past_key_values=self._cache,
                use_cache=True,
                output_hidden_states=True,
            )
        self._cache = output.past_key_values
        new_BTD = output.hidden_states[-1]
        self._features_BTD = new_BTD if self._features_BTD is None else torch.cat([self._features_BTD, new_BTD], 1)
        return self._features_BTD
