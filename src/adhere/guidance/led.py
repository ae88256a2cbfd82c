"""A schedule of the first of several processes, which the others follow: for executors that make guidance elsewhere."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from adhere import ranks
from adhere.errors import RefreshError
from adhere.guidance.guidance import Guidance
from adhere.guidance.schedule import InForce, Schedule
from adhere.guidance.sharing import from_first
from adhere.records import GuidanceVersion


class Led:
    """Every process takes up the same guidance at the same step; where it is made, and when, the first one decides.

    Args:
        schedule: asked in the first process alone.
        embeddings_VD: this process's token embeddings of the reference.
    """

    def __init__(self, schedule: Schedule, embeddings_VD: Tensor) -> None:
        self._schedule, self._embeddings_VD = schedule, embeddings_VD
        self._made: Guidance | None = None  # in the first process
        self._current: Guidance | None = None
        self._stands: InForce | None = None
        self._told: dict[str, float] = {}

    def guidance_at(self, step: int, policy: PreTrainedModel) -> Guidance:
        """As `Schedule.guidance_at`; the others wait for the first. What it raises ends training in all of them alike."""
        asked = ranks.on_first(lambda: self._asked(step, policy))
        if isinstance(asked, str):
            raise RefreshError(asked)
        version, self._stands, self._told = asked
        if self._current is None or self._current.version != version:
            self._current = from_first(lambda: self._made, self._embeddings_VD)
        assert self._current is not None
        return self._current

    def in_force(self) -> InForce:
        assert self._stands is not None
        return self._stands

    def told(self) -> dict[str, float]:
        return self._told

    def close(self) -> None:
        self._schedule.close()

    def _asked(self, step: int, policy: PreTrainedModel) -> tuple[GuidanceVersion, InForce, dict[str, float]] | str:
        try:
            self._made = self._schedule.guidance_at(step, policy)
        except RefreshError as error:
            return str(error)
        return self._made.version, self._schedule.in_force(), self._schedule.told()
