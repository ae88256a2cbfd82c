"""Where a refresh runs. In process is the one that is always there; a worker process or a cluster take the same two calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel, fast_dtype


class Pending(Protocol):
    """A refresh under way."""

    def done(self) -> bool:
        """True when `result` would not wait."""
        ...

    def result(self) -> Guidance:
        """The guidance; waits for it, and raises what the refresh raised."""
        ...


class Executor(Protocol):
    """Runs refreshes somewhere."""

    def submit(self, request: Request, policy: PreTrainedModel) -> Pending:
        """Start a refresh from the policy as it stands now; later training must not change what it sees."""
        ...

    def holds(self, iteration: int) -> bool:
        """True when that iteration's guidance is on disk, so that `submit` only reads it."""
        ...


@dataclass(frozen=True, slots=True)
class _Finished:
    guidance: Guidance

    def done(self) -> bool:
        return True

    def result(self) -> Guidance:
        return self.guidance


@dataclass(slots=True)
class InProcess:
    """Runs the refresh here and now, so the result is ready when `submit` returns."""

    refresher: Refresher

    def submit(self, request: Request, policy: PreTrainedModel) -> Pending:
        found = self.refresher.on_disk(request)
        if found is not None:
            return _Finished(found)  # before the policy is copied
        # A random state of its own: a refresh must not change what training draws afterwards.
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), FrozenModel(policy, fast_dtype(policy.device)).lent() as still:
            return _Finished(self.refresher.run(request, still))

    def holds(self, iteration: int) -> bool:
        return Guidance.exists(self.refresher.guidance_folder(iteration))
