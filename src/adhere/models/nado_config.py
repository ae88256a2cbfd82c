"""The shape of the auxiliary model as a section of a recipe; apart from it, so that reading this needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NadoConfig(BaseModel):
    """Shape of the auxiliary model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Literal["frozen", "own"] = Field(
        "frozen", description="trunk on the frozen model's hidden states, or a small transformer of its own"
    )
    width: int = Field(256, ge=8, description="width of the trunk")
    layers: int = Field(1, ge=1, description="transformer layers in the trunk")
    heads: int = Field(4, ge=1, description="attention heads in the trunk; must divide width")
    rank: int = Field(64, ge=1, description="rank of the term between prefix and next token")

    @model_validator(mode="after")
    def _heads_fit(self) -> NadoConfig:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self
