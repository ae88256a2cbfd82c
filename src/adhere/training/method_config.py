"""The choices of the method as a section of a recipe; apart from `ConstrainedConfig`, so that it needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Anchor = Literal["live", "iteration", "reference"]
Positions = Literal["corpus", "samples", "both"]
ViolatingRows = Literal["learn", "tilt", "leave"]
ScheduleName = Literal["sequential"]


class MethodConfig(BaseModel):
    """How the policy is held to its constraints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: ScheduleName = Field("sequential", description="when guidance is refreshed: sequential")
    iterations: int = Field(3, ge=1, description="how often guidance is refreshed during the run")
    anchor: Anchor = Field(
        "live",
        description="which p the target q* is built on: live (the policy now), iteration (as it stood when the "
        "iteration began), reference (before fine-tuning)",
    )
    positions: Positions = Field(
        "corpus", description="where the policy is held to q*: corpus rows, sampled outputs, or both"
    )
    violating_rows: ViolatingRows = Field(
        "tilt",
        description="what the language-model loss does with corpus rows that violate: learn them like any, tilt (weigh "
        "each of their tokens by how much less likely it is under q* than under p), or leave them to the regulariser alone",
    )
    prefix_weight_clip: float = Field(
        10.0, ge=1.0, description="largest weight of a sampled prefix when it stands for a prefix of q*"
    )
