"""The network of the Jigsaw judge: embedding, LSTM in both directions, maximum over time, two dense layers.

Axes: B texts, T words, D width, L labels. Keras and torch order the gates of an LSTM alike (input, forget, cell,
output); Keras keeps its kernels transposed, and one bias where torch adds two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np

_DIRECTIONS = {
    "l0": "layers/bidirectional/forward_layer/cell/vars",
    "l0_reverse": "layers/bidirectional/backward_layer/cell/vars",
}
_EMBEDDING = "layers/embedding/vars/0"
_DENSE = {"hidden": "layers/dense/vars", "output": "layers/dense_1/vars"}

KERAS_NAMES = (
    _EMBEDDING,
    *(f"{place}/{i}" for place in _DIRECTIONS.values() for i in range(3)),
    *(f"{place}/{i}" for place in _DENSE.values() for i in range(2)),
)
"""Where the arrays that `from_keras` needs lie in a weights file of Keras 3."""


class BiLstm(nn.Module):
    """Logits of L labels for word numbers."""

    def __init__(self, words: int, width: int, units: int, hidden: int, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, units, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(2 * units, hidden)
        self.output = nn.Linear(hidden, labels)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> BiLstm:
        """The network whose sizes are those of the tensors, in evaluation mode."""
        words, width = state["embedding.weight"].shape
        labels, hidden = state["output.weight"].shape
        network = cls(words, width, state["lstm.weight_hh_l0"].shape[1], hidden, labels)
        network.load_state_dict(state)
        return network.eval()

    def forward(self, words_BT: Tensor) -> Tensor:
        """Logits BL; the zeros that pad a text are words like any other, as in training."""
        states_BTD, _ = self.lstm(self.embedding(words_BT))
        logits_BL: Tensor = self.output(self.hidden(states_BTD.amax(dim=1)).relu())
        return logits_BL


def from_keras(weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """State of `BiLstm` from the arrays of Keras, named as in `KERAS_NAMES`."""
    array = {name: torch.from_numpy(values.copy()) for name, values in weights.items()}
    state = {"embedding.weight": array[_EMBEDDING]}
    for direction, place in _DIRECTIONS.items():
        state[f"lstm.weight_ih_{direction}"] = array[f"{place}/0"].T.contiguous()
        state[f"lstm.weight_hh_{direction}"] = array[f"{place}/1"].T.contiguous()
        state[f"lstm.bias_ih_{direction}"] = array[f"{place}/2"]
        state[f"lstm.bias_hh_{direction}"] = torch.zeros_like(array[f"{place}/2"])
    for layer, place in _DENSE.items():
        state[f"{layer}.weight"] = array[f"{place}/0"].T.contiguous()
        state[f"{layer}.bias"] = array[f"{place}/1"]
    return state
