"""The choices of the method as a section of a recipe; apart from `ConstrainedConfig`, so that it needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Anchor = Literal["live", "iteration", "reference"]
Positions = Literal["corpus", "samples", "both"]
ViolatingRows = Literal["learn", "tilt", "leave"]
ScheduleName = Literal["sequential", "parallel"]


STEPS_AN_ITERATION = 300
"""A run without `iterations` has one for about so many optimiser steps: docs/defaults.md says why."""

MEASUREMENTS = 16
"""A run without `measure_every` is measured about so often."""

AT_THE_END = 4
"""So many times as many outputs are drawn for the verdict, which no later measurement corrects."""


class DomainConfig(BaseModel):
    """How the rows of one domain are trained (method.md §5). Rows of other domains: loss_weight 1, all constraints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss_weight: float = Field(
        1.0, ge=0.0, allow_inf_nan=False, description="what the language-model loss of its rows counts"
    )
    constraints: dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] | None = Field(
        None,
        description="the constraints that act here, by name, each with its λ (with multiplier dual: where λ starts); "
        "without it all, with their own weights; {} for none",
    )
    reference_kl: float | None = Field(
        None,
        ge=0.0,
        allow_inf_nan=False,
        description="weight of KL(reference ‖ policy) here instead of guidance.reference_kl: large in a domain that should "
        "not move",
    )


class MethodConfig(BaseModel):
    """How the policy is held to its constraints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: ScheduleName = Field(
        "sequential",
        description="when guidance is refreshed: sequential (training waits for it), or parallel (training goes on meanwhile, "
        "with guidance that is one iteration old)",
    )
    iterations: int | None = Field(
        None,
        ge=1,
        description=f"how often guidance is refreshed during the run; without it once for every {STEPS_AN_ITERATION} steps",
    )
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
    reference_kl: float = Field(
        0.2,
        ge=0.0,
        allow_inf_nan=False,
        description="weight of KL(reference ‖ policy) at the positions where the policy is held: a little of it keeps what the "
        "model knew before fine-tuning from the noise of the regulariser",
    )
    prefix_weight_clip: float = Field(
        10.0, ge=1.0, description="largest weight of a sampled prefix when it stands for a prefix of q*"
    )
    measure_every: int | None = Field(
        None,
        ge=1,
        description="steps between two measurements of satisfaction for constraints with multiplier dual, beside those of "
        "the refreshes; a sixteenth of the run without it",
    )
    measure_samples: int = Field(
        256, ge=2, description="outputs drawn for each of these; four times as many for the verdict at the end"
    )


def iterations_in(steps: int, iterations: int | None = None) -> int:
    """Iterations of a run of so many steps: those asked for, or what a run that leaves `iterations` open has."""
    return iterations or max(1, round(steps / STEPS_AN_ITERATION))


def measured_every(steps: int) -> int:
    """Steps between two measurements in a run of so many that leaves `measure_every` open."""
    return max(1, -(-steps // MEASUREMENTS))
