"""Which tilt an adaptive λ should have, and whether it finds its λ, where every optimum can be computed (method.md §5).

A world with three prompts that satisfy at different rates; the corpus of each violates far more often. What is asked for is
the mean over prompts. The best policy there is minimises the corpus loss with that mean held to the target.
"""

import pytest
import torch

from adhere.functional.kl import constrained_kl
from adhere.functional.target import log_tilt
from adhere.guidance.constraint import DualConfig
from adhere.training.multiplier import MultiplierState, updated
from adhere.training.satisfaction import Satisfaction

TARGET = 0.95


class Prompts:
    """Tabular policies of three prompts, trained together: their leaves, corpus and scores."""

    def __init__(self, world):
        self.worlds = [world(4, 3, seed=seed) for seed in (11, 12, 13)]
        self.scores = [w.hard_oracle(share) for w, share in zip(self.worlds, (0.7, 0.5, 0.4), strict=True)]
        self.corpora = [w.reach(w.policy().log_softmax(-1))[len(w.nodes) :].exp() for w in self.worlds]
        self.start = [w.policy() for w in self.worlds]

    def corpus_loss(self, policies):
        losses = [
            -(corpus_M * w.reach(p.log_softmax(-1))[len(w.nodes) :]).sum()
            for w, p, corpus_M in zip(self.worlds, policies, self.corpora, strict=True)
        ]
        return torch.stack(losses).mean()

    def satisfaction(self, policies):
        each = [
            w.satisfaction(p.log_softmax(-1), s)[0] for w, p, s in zip(self.worlds, policies, self.scores, strict=True)
        ]
        return torch.stack(each)

    def regulariser(self, policies, target):
        """What the trainer minimises: the surrogate at every prefix, prefixes weighed as those of q*."""
        total = 0.0
        for w, p, score_M in zip(self.worlds, policies, self.scores, strict=True):
            log_p = p.detach().log_softmax(-1)
            r_P = w.satisfaction(log_p, score_M)
            log_w_P = log_tilt(r_P.log().unsqueeze(0), r_P[:1], target)[0]
            prefix_N = (w.reach(log_p) + log_w_P)[: len(w.nodes)].exp()
            surrogate_N, _ = constrained_kl(p, log_w_P[w.children_NV])
            total = total + (prefix_N * surrogate_N).sum()
        return total / len(self.worlds)

    def train(self, policies, loss_of, steps=200, rate=2.0):
        policies = [p.clone().requires_grad_() for p in policies]
        optimiser = torch.optim.SGD(policies, lr=rate, momentum=0.8)
        for _ in range(steps):
            optimiser.zero_grad()
            loss_of(policies).backward()
            optimiser.step()
        return [p.detach() for p in policies]

    def optimum(self):
        """The least corpus loss at a mean satisfaction of TARGET, by bisection on the Lagrange multiplier."""
        low, high, policies = 0.0, 16.0, self.start
        for _ in range(11):
            price = (low + high) / 2

            def lagrangian(p, price=price):
                return self.corpus_loss(p) - price * self.satisfaction(p).mean()

            policies = self.train(policies, lagrangian, steps=100)
            low, high = (price, high) if self.satisfaction(policies).mean() < TARGET else (low, price)
        return policies


@pytest.fixture(scope="module")
def prompts(world):
    return Prompts(world)


@pytest.fixture(scope="module")
def optimum(prompts):
    return prompts.optimum()


def adapted(prompts, measured_n, start=2.0, measurements=16, steps=20, seed=0):
    """Training with the hard tilt, λ moved by measurements of so many outputs; the mean satisfaction at each, and λ."""
    state, dual, policies, path = MultiplierState.start(start), DualConfig(), prompts.start, []
    random = torch.Generator().manual_seed(seed)
    for _ in range(measurements):
        weight = float(torch.tensor(state.log_multiplier).exp())

        def loss(p, weight=weight):
            return prompts.corpus_loss(p) + weight * prompts.regulariser(p, 1.0)

        policies = prompts.train(policies, loss, steps, rate=1.0)
        exact = float(prompts.satisfaction(policies).mean())
        drawn = float(torch.rand(measured_n, generator=random).lt(exact).float().mean())
        state = updated(state, Satisfaction(drawn, measured_n), TARGET, dual, steps)
        path.append((exact, weight))
    return policies, path


def test_the_tilt_of_the_target_itself_stays_below_the_target_for_every_multiplier(prompts):
    """So dual ascent would raise λ for ever: each prompt comes to r = δ from below, and the mean with them."""
    means, policies = [], prompts.start
    for weight in (2.0, 20.0, 200.0):
        policies = prompts.train(
            policies,
            lambda p, weight=weight: (prompts.corpus_loss(p) + weight * prompts.regulariser(p, TARGET)) / (1 + weight),
            steps=100,
        )
        each = prompts.satisfaction(policies)
        assert (each < TARGET).all()
        means.append(float(each.mean()))
    assert means == sorted(means) and means[0] < TARGET - 0.05


@pytest.mark.parametrize("start", [0.5, 2.0, 50.0])
def test_the_hard_tilt_with_an_adaptive_multiplier_comes_to_the_target(prompts, start):
    _, path = adapted(prompts, 100_000, start)
    assert path[0][0] != pytest.approx(TARGET, abs=0.02)
    assert [exact for exact, _ in path[-3:]] == pytest.approx([TARGET] * 3, abs=0.005)


@pytest.mark.parametrize("seed", range(3))
def test_it_comes_there_on_256_outputs_a_measurement_too(prompts, seed):
    _, path = adapted(prompts, 256, seed=seed)
    assert path[-1][0] == pytest.approx(TARGET, abs=0.012)


def test_the_hard_tilt_is_nearly_the_cheapest_way_to_the_target(prompts, optimum):
    """Against the best policy of the same mean satisfaction, and against asking every prompt for the target."""
    cheapest = float(prompts.corpus_loss(optimum))
    assert float(prompts.satisfaction(optimum).mean()) == pytest.approx(TARGET, abs=2e-3)
    policies, _ = adapted(prompts, 100_000, measurements=20)
    hard = float(prompts.corpus_loss(policies))
    each = prompts.train(
        optimum,
        lambda p: (prompts.corpus_loss(p) + 500.0 * prompts.regulariser(p, TARGET)) / 501.0,
        steps=300,
    )
    at_every_prompt = float(prompts.corpus_loss(each))
    without = float(prompts.corpus_loss(prompts.train(prompts.start, prompts.corpus_loss)))
    assert without < cheapest < hard < at_every_prompt
    assert hard - cheapest < 0.01 * (cheapest - without)
