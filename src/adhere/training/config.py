"""Settings of a constrained training run: transformers' `TrainingArguments` and a few of our own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from transformers import TrainingArguments

from adhere.errors import RecipeError
from adhere.guidance.config import ExecutionConfig, FitConfig, RefreshConfig
from adhere.guidance.ray_config import RayConfig
from adhere.models.nado_config import NadoConfig
from adhere.sampling.sampler import SamplingConfig
from adhere.sampling.sampler_config import SamplerConfig
from adhere.training.fused_head import FUSED_HEAD, FusedHead, check_fused_head
from adhere.training.health_config import HealthConfig
from adhere.training.method_config import Anchor, DomainConfig, MethodConfig, Positions, ScheduleName, ViolatingRows

NO_UPLOAD = (
    "a run folder is not pushed to the hub: its samples and labels would go with the model; push the model itself after "
    "training, by trainer.model.push_to_hub(...) and trainer.processing_class.push_to_hub(...)"
)


def _choice(name: str, section: type[BaseModel] = MethodConfig) -> Any:
    """A choice of the method as a field here: its default and its help stand in `MethodConfig`, or another section."""
    declared = section.model_fields[name]
    return field(default=declared.default, metadata={"help": declared.description})


@dataclass
class ConstrainedConfig(TrainingArguments):
    """`TrainingArguments` with the choices of the method; `output_dir` is the run folder."""

    schedule: str = _choice("schedule")
    executor: str | None = _choice("executor", ExecutionConfig)
    worker_device: str | None = _choice("worker_device", ExecutionConfig)
    worker_threads: int | None = _choice("worker_threads", ExecutionConfig)
    refresh_timeout: float = _choice("refresh_timeout", ExecutionConfig)
    max_failures: int = _choice("max_failures", ExecutionConfig)
    ray: RayConfig = field(default_factory=RayConfig, metadata={"help": "which Ray cluster, and how much of it"})
    iterations: int | None = _choice("iterations")
    anchor: str = _choice("anchor")
    positions: str = _choice("positions")
    violating_rows: str = _choice("violating_rows")
    reference_kl: float = _choice("reference_kl")
    prefix_weight_clip: float = _choice("prefix_weight_clip")
    measure_every: int | None = _choice("measure_every")
    measure_samples: int = _choice("measure_samples")
    fused_head: str = field(default="torch", metadata={"help": FUSED_HEAD})
    domains: dict[str, DomainConfig] = field(
        default_factory=dict, metadata={"help": "how the rows of a domain are trained, by the domain's name"}
    )
    max_length: int = field(default=512, metadata={"help": "longest training sequence, in tokens"})
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "longest prompt, in tokens; half of max_length"}
    )
    prompt_words: int = field(default=4, metadata={"help": "a `text` row's first words, which prompt the rest"})
    sampling: SamplingConfig = field(default_factory=SamplingConfig, metadata={"help": "how outputs are drawn"})
    refresh: RefreshConfig = field(default_factory=RefreshConfig, metadata={"help": "how much is sampled"})
    nado: NadoConfig = field(default_factory=NadoConfig, metadata={"help": "shape of the auxiliary model"})
    nado_fit: FitConfig = field(default_factory=FitConfig, metadata={"help": "how the auxiliary model is fitted"})
    health: HealthConfig = field(default_factory=HealthConfig, metadata={"help": "what is done when a run goes wrong"})

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        for name, choices in (
            ("anchor", Anchor), ("positions", Positions), ("violating_rows", ViolatingRows), ("schedule", ScheduleName),
            ("fused_head", FusedHead),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in get_args(choices):
                raise RecipeError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        self.execution()
        check_fused_head(self.fused_head, self.device.type)
        if self.push_to_hub:
            raise RecipeError(f"push_to_hub: {NO_UPLOAD}")
        if self.iterations is not None and self.iterations < 1:
            raise RecipeError(f"iterations must be at least 1, got {self.iterations}")
        if self.prefix_weight_clip < 1:
            raise RecipeError(f"prefix_weight_clip must be at least 1, got {self.prefix_weight_clip}")
        if not 0 <= self.reference_kl < math.inf:
            raise RecipeError(f"reference_kl must be at least 0 and finite, got {self.reference_kl}")
        if self.measure_every is not None and self.measure_every < 1:
            raise RecipeError(f"measure_every must be at least 1, got {self.measure_every}")
        if self.measure_samples < 2:
            raise RecipeError(f"measure_samples must be at least 2, got {self.measure_samples}")
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise RecipeError(
                f"save_total_limit must be at least 2, got {self.save_total_limit}: with fewer, a crash while a checkpoint is "
                "written can leave none"
            )
        if self.remove_unused_columns:
            self.remove_unused_columns = False  # the collator reads columns that the model does not
        for name, section in (
            ("sampling", SamplerConfig), ("refresh", RefreshConfig), ("nado", NadoConfig), ("nado_fit", FitConfig),
            ("health", HealthConfig), ("ray", RayConfig),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, section(**value))
        self.domains = {name: DomainConfig.model_validate(given) for name, given in self.domains.items()}

    def execution(self) -> ExecutionConfig:
        """Where guidance is refreshed. Raises RecipeError when a value is out of range."""
        try:
            return ExecutionConfig(**{name: getattr(self, name) for name in ExecutionConfig.model_fields})
        except ValidationError as error:
            wrong = error.errors()[0]
            raise RecipeError(f"{wrong['loc'][0]}: {wrong['msg']}, got {wrong['input']!r}") from error

    @property
    def where(self) -> str:
        """The executor: the one asked for, or the one that goes with the schedule."""
        return self.execution().where(self.schedule)

    def to_dict(self) -> dict[str, Any]:
        """As `TrainingArguments.to_dict`, with our sections as plain dictionaries."""
        described: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        for name in ("sampling", "refresh", "nado", "nado_fit", "health", "ray"):
            described[name] = getattr(self, name).model_dump()
        described["domains"] = {name: domain.model_dump() for name, domain in self.domains.items()}
        return described
