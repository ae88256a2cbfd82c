"""The schedules themselves, in a world where a refresh is exact: training by either comes to the same optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from adhere.functional.kl import constrained_kl
from adhere.functional.target import log_tilt
from adhere.guidance.guidance import Guidance
from adhere.guidance.parallel import Parallel
from adhere.guidance.refresh import Request
from adhere.guidance.schedule import Sequential, boundaries
from adhere.records import GuidanceVersion

STEPS, ITERATIONS = 800, 40


@dataclass
class Exact:
    """Takes log W of every prefix from the tabular policy as it stands; `guidance_of` has it by iteration."""

    world: Any
    score_M: torch.Tensor
    target: float
    guidance_of: dict[int, torch.Tensor]
    seconds = 0.0

    def submit(self, request: Request, policy: Any) -> Exact:
        self.request = request
        r_P = self.world.satisfaction(policy.detach().log_softmax(-1), self.score_M)
        self.guidance_of[request.iteration] = log_tilt(r_P.log().unsqueeze(0), r_P[:1], self.target)[0]
        return self

    def done(self) -> bool:
        return True

    def result(self) -> Guidance:
        return Guidance(GuidanceVersion(self.request.iteration, self.request.policy_step), {})

    def holds(self, iteration: int) -> bool:
        return False

    def close(self) -> None: ...


def trained(schedule: Any, w: Any, start: torch.Tensor, corpus_M: torch.Tensor, score_M: torch.Tensor) -> torch.Tensor:
    """L_LLM + λ·KL(q* ‖ p) with the live anchor: the probabilities of all sequences in the end."""
    executor = Exact(w, score_M, 1.0, {})
    made = schedule(boundaries(STEPS, ITERATIONS), executor)
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([logits], lr=0.7, momentum=0.8)
    for step in range(STEPS):
        log_w_P = executor.guidance_of[made.guidance_at(step, logits).version.iteration]
        optimiser.zero_grad()
        prefix_N = (w.reach(logits.detach().log_softmax(-1)) + log_w_P)[: len(w.nodes)].exp()
        surrogate_N, _ = constrained_kl(logits, log_w_P[w.children_NV])
        corpus = -(corpus_M * w.reach(logits.log_softmax(-1))[len(w.nodes) :]).sum()
        (corpus + 0.5 * (prefix_N * surrogate_N).sum()).backward()
        optimiser.step()
    assert len(executor.guidance_of) == ITERATIONS - (schedule is Parallel)
    return w.reach(logits.detach().log_softmax(-1))[len(w.nodes) :].exp()


@pytest.mark.parametrize("seed", range(3))
def test_the_parallel_schedule_trains_to_the_same_optimum_as_the_sequential_one(world: Any, seed: int) -> None:
    w = world(4, 3, seed=seed)
    start, score_M = w.policy(), w.hard_oracle(share=0.4)
    corpus_M = w.reach(w.policy().log_softmax(-1))[len(w.nodes) :].exp()
    first_M = w.reach(start.log_softmax(-1))[len(w.nodes) :].exp()
    sequential_M = trained(Sequential, w, start, corpus_M, score_M)
    parallel_M = trained(Parallel, w, start, corpus_M, score_M)
    torch.testing.assert_close(parallel_M, sequential_M, atol=1e-3, rtol=0)
    assert not torch.allclose(first_M, sequential_M, atol=0.02)
    assert (sequential_M * score_M).sum() > (corpus_M * score_M).sum() + 0.02  # the constraint was worth something
