"""What every oracle's section of a recipe has."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import BaseModel, ConfigDict, Field

from adhere.oracles.base import Oracle


class OracleSection(BaseModel, ABC):
    """A section that an oracle is built from; `kind` says which."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def build(self) -> Oracle:
        """The oracle; loads what it needs, so that what is missing shows now."""


class NamedSection(OracleSection):
    """An oracle that can be given a name."""

    name: str | None = Field(None, min_length=1, description="What messages, files and tables call the oracle.")

    def _arguments(self) -> dict[str, object]:
        """The fields that the oracle's constructor takes: all but `kind`, and `name` only where it is given."""
        return {k: getattr(self, k) for k in type(self).model_fields if k != "kind" and (k != "name" or self.name)}
