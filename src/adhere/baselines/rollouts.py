"""Outputs of a policy that stands still, labelled, on disk; and guidance fitted on them: a refresh outside of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel, fast_dtype
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import Policy
from adhere.records import LabelledSample, Prompt
from adhere.sampling.sampler import SamplingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Draws from one policy, for methods that do so once.

    Args:
        policy: as it was trained.
        step: how many steps it was trained for.
        constraints: whose oracles label the outputs.
        prompts: what is sampled from.
        sampling: how.
        refresh: how many.
        folder: the run folder; what is in it from a run that was stopped is used.
        seed: of what is drawn.
        report: told of every part, with numbers.
    """

    policy: Policy
    step: int
    constraints: Sequence[Constraint]
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    refresh: RefreshConfig
    folder: Path
    seed: int
    report: Callable[[str, dict[str, Any]], None]

    def labelled(self) -> list[LabelledSample]:
        """The outputs with every constraint's verdict. Raises OracleError, RunFolderError as a refresh does."""
        with self._still() as (frozen, model):
            return self._refresher(frozen, [], NadoConfig(), FitConfig()).draw(self._request(), model)

    def guidance(self, corpus: Sequence[Evidence], nado: NadoConfig, fitting: FitConfig) -> Guidance:
        """One NADO for each constraint, fitted on the outputs and on labelled corpus rows; it reads the policy itself.

        Raises:
            GuidanceError: nothing tells good from bad. OracleError, RunFolderError: as a refresh does.
        """
        with self._still() as (frozen, model):
            return self._refresher(frozen, corpus, nado, fitting).run(self._request(), model)

    @contextmanager
    def _still(self) -> Iterator[tuple[FrozenModel, PreTrainedModel]]:
        """The policy in the dtype in which inference is fastest, with a random state of its own."""
        device = self.policy.device
        frozen = FrozenModel(self.policy.model, fast_dtype(device))
        with torch.random.fork_rng([device] if device.type == "cuda" else []), frozen.lent() as model:
            yield frozen, model

    def _request(self) -> Request:
        return Request(iteration=0, policy_step=self.step, step=self.step, previous=None)

    def _refresher(
        self, frozen: FrozenModel, corpus: Sequence[Evidence], nado: NadoConfig, fitting: FitConfig
    ) -> Refresher:
        return Refresher(
            tokenizer=self.policy.tokenizer,
            reference=frozen,
            constraints=self.constraints,
            prompts=self.prompts,
            corpus=corpus,
            folder=self.folder,
            sampling=self.sampling,
            refresh=self.refresh,
            nado=nado,
            fitting=fitting,
            seed=self.seed,
            report=self.report,
        )
