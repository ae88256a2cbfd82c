"""How guidance is refreshed on a Ray cluster, as a section of a recipe. Importing this brings neither torch nor ray."""

from __future__ import annotations

from importlib.util import find_spec

from pydantic import BaseModel, ConfigDict, Field

from adhere.errors import RecipeError


class RayConfig(BaseModel):
    """Which cluster, and how much of it: actors that sample, actors that judge, and one that fits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = Field(
        None,
        min_length=1,
        description="of the cluster: auto, host:port or ray://host:port; without it the environment's RAY_ADDRESS, or else a "
        "Ray of its own on this machine",
    )
    samplers: int = Field(1, ge=1, description="actors that sample, each with a copy of the policy")
    sampler_cpus: float = Field(1.0, ge=0.0, description="CPUs of a sampler")
    sampler_gpus: float = Field(
        0.0, ge=0.0, description="GPUs of a sampler; 0 samples on the CPU. Ray must not count the GPUs that train"
    )
    judges: int = Field(1, ge=1, description="actors that ask the oracles about outputs")
    judge_cpus: float = Field(1.0, ge=0.0, description="CPUs of a judge")
    judge_gpus: float = Field(0.0, ge=0.0, description="GPUs of a judge, for oracles that are models")
    fitter_cpus: float = Field(1.0, ge=0.0, description="CPUs of the one actor that fits the auxiliary models")
    fitter_gpus: float = Field(0.0, ge=0.0, description="GPUs of that actor")
    load_there: bool = Field(
        False,
        description="every node loads model.path itself, from the hub or a folder that all see, instead of being sent the "
        "weights by this machine",
    )
    max_lost: int = Field(
        8,
        ge=0,
        description="actors (or nodes with them) that one refresh may lose and replace before it counts as failed",
    )
    patience: float = Field(
        900.0,
        gt=0.0,
        allow_inf_nan=False,
        description="seconds in which the first actor of a kind must have found a node and loaded what it needs",
    )


def require_ray() -> None:
    """Raises RecipeError when Ray is not installed."""
    if find_spec("ray") is None:
        raise RecipeError("guidance.executor: ray needs Ray: pip install 'adhere[ray]'; or use worker or in-process")
