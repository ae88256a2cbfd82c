"""Where a refresh runs. In process is the one that is always there; a worker process or a cluster take the same calls.

An executor makes one attempt at a refresh. What is tried again, when, and when a run gives up is told in `attempts`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from transformers import PreTrainedModel

from adhere import ranks
from adhere.errors import AdhereError, OracleError, RefreshError, SamplingError
from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Refresher, Request
from adhere.guidance.snapshots import Snapshots
from adhere.models.frozen import FrozenModel, fast_dtype


class Pending(Protocol):
    """An attempt at a refresh that is under way, or over."""

    @property
    def seconds(self) -> float:
        """How long the refresh itself has worked, once it is done; 0 where it only had to be read."""
        ...

    def done(self) -> bool:
        """True when `result` would not wait: there is guidance, or the attempt has failed."""
        ...

    def result(self) -> Guidance:
        """The guidance; waits for it.

        Raises:
            RefreshError: the attempt failed in a way that another one may mend (`may_be_mended`).
            Exception: anything else that the refresh raised: it ends the run.
        """
        ...


class Executor(Protocol):
    """Makes attempts at refreshes somewhere."""

    def submit(self, request: Request, policy: PreTrainedModel) -> Pending:
        """Start a refresh from the policy as it stood at `request.policy_step`; later training must not change what it sees.

        Where `request.step` is that step, the policy is as asked, and an executor that does not finish here must have a
        snapshot of it on disk when this returns (`Snapshots.take`). Where it is a later step (after a resume, or in
        another attempt) the policy asked for is that snapshot. What an earlier attempt has put on disk is used again.
        """
        ...

    def holds(self, iteration: int) -> bool:
        """True when that iteration's guidance is on disk, so that `submit` only reads it."""
        ...

    def close(self) -> None:
        """Stop whatever is under way and let go of every process; nothing is submitted afterwards."""
        ...


def may_be_mended(error: BaseException) -> bool:
    """True when another attempt at the same refresh may succeed: a service that did not answer, no memory, a lost process.

    A recipe, a model, files or labels with which nothing can be fitted stay as they are, however often one tries.
    """
    if isinstance(error, AdhereError):
        return isinstance(error, OracleError | SamplingError | RefreshError)
    return isinstance(error, Exception)


@dataclass(frozen=True, slots=True)
class Finished:
    """Guidance that is there already."""

    guidance: Guidance
    seconds: float = 0.0

    def done(self) -> bool:
        return True

    def result(self) -> Guidance:
        return self.guidance


@dataclass(slots=True)
class InProcess:
    """Runs the refresh here and now, so the result is ready when `submit` returns; what it raises, `submit` raises."""

    refresher: Refresher

    def submit(self, request: Request, policy: PreTrainedModel) -> Pending:
        snapshots = Snapshots(self.refresher.folder)
        found = self.refresher.on_disk(request)
        if found is not None:
            snapshots.remove(request.iteration)
            return Finished(found)  # before the policy is copied
        start, file = time.monotonic(), snapshots.path(request.iteration)
        frozen = FrozenModel(policy, fast_dtype(policy.device))
        if request.step != request.policy_step and file.exists():  # begun elsewhere, by a run that was stopped
            frozen.load(file)
            request = replace(request, step=request.policy_step)
        # A random state of its own: a refresh must not change what training draws afterwards.
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), frozen.lent() as still:
            guidance = self.refresher.run(request, still)
        snapshots.remove(request.iteration)
        return Finished(guidance, time.monotonic() - start)

    def holds(self, iteration: int) -> bool:
        return ranks.on_first(lambda: Guidance.exists(self.refresher.guidance_folder(iteration)))

    def close(self) -> None:
        """Nothing is under way between two calls."""
