"""Worlds so small that every sequence can be written down: the exact answer to compare with.

A sequence ends with the last token of the vocabulary (end of sequence), or at the longest length. A *node* is a prefix
that goes on; a *leaf* is a complete sequence. Prefixes are numbered breadth first, nodes before leaves, so that node 0
is the empty prefix. Axes: `P` all prefixes, `N` nodes, `M` leaves, `V` vocabulary, `L` longest length.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch


class Tree:
    """Every prefix over a vocabulary up to a length, numbered."""

    def __init__(self, vocabulary: int, length: int) -> None:
        nodes: list[tuple[int, ...]] = [()]
        for prefix in nodes:  # grows while it is read: breadth first
            if len(prefix) < length - 1:
                nodes += [(*prefix, v) for v in range(vocabulary - 1)]
        inner = set(nodes)
        following = [(*prefix, v) for prefix in nodes for v in range(vocabulary)]
        self.nodes, self.leaves = nodes, [prefix for prefix in following if prefix not in inner]
        self.prefixes = self.nodes + self.leaves
        number = {prefix: i for i, prefix in enumerate(self.prefixes)}
        self.children_NV = torch.tensor([[number[(*p, v)] for v in range(vocabulary)] for p in nodes])
        # The prefixes of every complete sequence, itself included: index i is the one of i tokens; padded with 0.
        paths = [[number[y[:i]] for i in range(len(y) + 1)] for y in self.leaves]
        self.path_ML = torch.tensor([path + [0] * (length + 1 - len(path)) for path in paths])
        self.path_mask_ML = torch.tensor([[i < len(path) for i in range(length + 1)] for path in paths])
        # Nodes of one depth stand together.
        starts = [next(i for i, p in enumerate(nodes) if len(p) == depth) for depth in range(length)]
        self.levels = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(nodes)], strict=True)]


tree = cache(Tree)


class World:
    """A tree with a source of random policies, oracles and samples of its own."""

    def __init__(self, vocabulary: int, length: int, seed: int = 0) -> None:
        self.vocabulary, self.length = vocabulary, length
        self.random = torch.Generator().manual_seed(seed)
        shared = tree(vocabulary, length)
        self.nodes, self.leaves, self.prefixes, self.levels = (
            shared.nodes,
            shared.leaves,
            shared.prefixes,
            shared.levels,
        )
        self.children_NV, self.path_ML, self.path_mask_ML = shared.children_NV, shared.path_ML, shared.path_mask_ML

    def policy(self, sharpness: float = 1.0) -> torch.Tensor:
        """Logits of a random policy, one row a node."""
        shape = (len(self.nodes), self.vocabulary)
        return sharpness * torch.randn(shape, generator=self.random, dtype=torch.float64)

    def hard_oracle(self, share: float = 0.5) -> torch.Tensor:
        """Scores of the leaves: each satisfies or not, and both kinds exist."""
        score_M = (torch.rand(len(self.leaves), generator=self.random) < share).double()
        score_M[0], score_M[-1] = 1.0, 0.0
        return score_M

    def soft_oracle(self) -> torch.Tensor:
        return torch.rand(len(self.leaves), generator=self.random, dtype=torch.float64)

    def banned_token_oracle(self, token: int = 0) -> torch.Tensor:
        """A prefix-closed oracle: a sequence with the token violates."""
        return torch.tensor([float(token not in leaf) for leaf in self.leaves], dtype=torch.float64)

    def reach(self, log_p_NV: torch.Tensor) -> torch.Tensor:
        """Log-probability of arriving at every prefix; differentiable."""
        log_reach_P = log_p_NV.new_zeros(len(self.prefixes))
        for level in self.levels:
            step = log_reach_P[level].unsqueeze(1) + log_p_NV[level]
            log_reach_P = log_reach_P.index_put((self.children_NV[level],), step)
        return log_reach_P

    def satisfaction(self, log_p_NV: torch.Tensor, score_M: torch.Tensor) -> torch.Tensor:
        """The exact R of every prefix, by going backwards from the complete sequences; differentiable."""
        r_P = torch.cat([log_p_NV.new_zeros(len(self.nodes)), score_M])
        for level in reversed(self.levels):
            average = (log_p_NV[level].exp() * r_P[self.children_NV[level]]).sum(-1)
            r_P = r_P.index_put((torch.arange(level.start, level.stop),), average)
        return r_P

    def sample(self, log_p_NV: torch.Tensor, count: int) -> torch.Tensor:
        """Indices of leaves, drawn from the policy."""
        p_M = self.reach(log_p_NV)[len(self.nodes) :].exp()
        return torch.multinomial(p_M, count, replacement=True, generator=self.random)


@pytest.fixture(scope="session")
def world():
    """Makes a world: `world(vocabulary=4, length=3, seed=0)`."""
    return World
