"""A moving average of weights: it forgets the noise of the last few steps, and keeps what they agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of a module's parameters.

        a ← d·a + (1 − d)·θ,   d = min(decay, (1 + n) / (10 + n)) at the n-th step

    The decay grows into its value, so that the first weights are soon forgotten.

    Args:
        module: whose parameters are averaged; buffers are not.
        decay: in [0, 1); 0 is no average, but the parameters themselves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._parameters, self._decay, self._steps = list(module.parameters()), decay, 0
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take a step of the optimiser in."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(parameter, 1.0 - decay)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The module with the average in place of its parameters; afterwards it has its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(own)
