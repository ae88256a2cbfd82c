"""What a run does when training, guidance or the outputs go wrong; apart from what watches them, so that it needs no torch.

The defaults are far from what healthy runs show (docs/reliability.md has the numbers): a run that is left alone must not
stop for nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class HealthConfig(BaseModel):
    """Faults of a run, and what is done about each: stop (with a checkpoint), skip (the step is not taken) or warn.

    A step that is not finite is never taken: its weights would be lost. There is nothing to skip where guidance or fresh
    outputs are at fault.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    non_finite: Literal["stop", "skip"] = Field(
        "skip", description="a loss or a gradient that is NaN or infinite: stop, or skip the step"
    )
    exploding_kl: Literal["stop", "skip", "warn"] = Field(
        "skip", description="a step whose KL is above max_kl: stop, skip the step, or warn and take it"
    )
    max_kl: float = Field(
        5.0,
        gt=0.0,
        allow_inf_nan=False,
        description="largest mean KL(q* ‖ policy) of a step, in nats per token, summed over the constraints",
    )
    skips_in_a_row: int = Field(
        3, ge=0, description="so many steps may be skipped one after the other; one more stops the run"
    )
    saturated_guidance: Literal["stop", "warn"] = Field(
        "stop",
        description="NADO that is certain of satisfaction nearly everywhere though outputs violate: stop or warn",
    )
    saturated_share: float = Field(
        0.99,
        gt=0.0,
        le=1.0,
        description="share of held-out positions with R > 0.999 from which NADO is saturated, where 5 % of the outputs or "
        "more violate",
    )
    collapsed_outputs: Literal["stop", "warn"] = Field(
        "stop", description="fresh outputs of a refresh that are empty, short or all alike: stop or warn"
    )
    max_empty: float = Field(0.5, ge=0.0, le=1.0, description="largest share of empty outputs of a refresh")
    min_length: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="smallest mean length of outputs, as a share of that of the first iteration or of the corpus, whichever "
        "is shorter",
    )
    min_distinct: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="smallest share of bigrams that are distinct (distinct-2), as a share of that of the first iteration or "
        "of the corpus, whichever is smaller",
    )
