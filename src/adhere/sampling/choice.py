"""The choice of the next token, with the log probabilities that importance weights need.

B batch · T time · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

if TYPE_CHECKING:
    from adhere.sampling.sampler import SamplingConfig


def float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed for this device: there, or on the CPU if it has none (Apple's GPUs)."""
    return torch.device("cpu") if device.type == "mps" else device


class InverseCdfChoice(LogitsProcessor):
    """Chooses each row's token by inverting its cumulative distribution at that row's next uniform.

    It leaves only the chosen token possible, so greedy `generate` follows it.

    Args:
        uniforms_BT: in [0, 1), one for every row and step, on the `float64_device` of the model.
        config: temperature and truncation, applied before the choice.
        guide: changes the distribution before that; the log probabilities of the model itself are taken without it.
    """

    def __init__(self, uniforms_BT: Tensor, config: SamplingConfig, guide: LogitsProcessor | None = None) -> None:
        self._uniforms_BT = uniforms_BT
        self._step = 0
        self._log_p: list[Tensor] = []
        self._log_s: list[Tensor] = []
        self._warpers = LogitsProcessorList([] if guide is None else [guide])
        if config.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            self._warpers.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(config.top_p))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        log_p_BV = torch.log_softmax(scores.float(), -1)
        log_s_BV = log_p_BV
        if self._warpers:
            log_s_BV = torch.log_softmax(self._warpers(input_ids, log_p_BV), -1)
        cumulative_BV = log_s_BV.exp().to(float64_device(scores.device)).double().cumsum(-1)
        threshold_B1 = self._uniforms_BT[:, self._step, None].double() * cumulative_BV[:, -1:]
        token_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True).clamp_max(scores.shape[-1] - 1)
        token_B1 = token_B1.to(scores.device)
        self._step += 1
        self._log_p.append(log_p_BV.gather(1, token_B1).squeeze(1))
        self._log_s.append(log_s_BV.gather(1, token_B1).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, token_B1, 0.0)  # type: ignore[return-value]

    def log_probabilities(self) -> tuple[Tensor, Tensor]:
        """Log probability of every chosen token: under the model, and under the distribution chosen from. [B, T] each."""
        return torch.stack(self._log_p, 1).cpu().double(), torch.stack(self._log_s, 1).cpu().double()
