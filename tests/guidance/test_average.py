"""The average that is kept instead of the last weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adhere.guidance.average import WeightAverage


def _walk(decay: float, steps: int) -> tuple[nn.Linear, WeightAverage, list[float]]:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 100.0)
    average, seen = WeightAverage(module, decay), []
    for step in range(steps):
        nn.init.constant_(module.weight, float(step % 2))
        average.update()
        seen.append(module.weight.item())
    return module, average, seen


def test_it_is_the_weighted_mean_that_its_recursion_says() -> None:
    module, average, seen = _walk(0.8, 60)
    expected = 100.0
    for n, value in enumerate(seen):
        decay = min(0.8, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with average.lent():
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected - 0.5) < 0.1  # neither 0 nor 1, and the weights it began with are forgotten


def test_without_decay_it_is_the_weights_themselves() -> None:
    module, average, seen = _walk(0.0, 3)
    with average.lent():
        assert module.weight.item() == seen[-1]


def test_the_module_gets_its_own_weights_back_also_after_an_error() -> None:
    module, average, seen = _walk(0.9, 4)
    with pytest.raises(KeyError), average.lent():
        assert module.weight.item() != seen[-1]
        raise KeyError
    assert module.weight.item() == seen[-1]
    with average.lent():  # and the average is what it was
        assert module.weight.item() > 1.0 or 0.0 < module.weight.item() < 1.0
    assert torch.equal(module.weight, torch.full((1, 1), seen[-1]))
