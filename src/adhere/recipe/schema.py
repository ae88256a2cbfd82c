"""A recipe: everything that decides a run, in one validated object. Importing this brings no torch.

The sections are the configurations of the parts they configure; each field is described where it is declared, and that
text is what errors, the JSON Schema and the documentation show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adhere.baselines.config import BaselinesConfig
from adhere.data.corpus import CorpusConfig
from adhere.data.prompts import Overlong
from adhere.guidance.config import ExecutionConfig, FitConfig, RefreshConfig
from adhere.guidance.constraint import DualConfig, Multiplier, dual_problem
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import ModelConfig
from adhere.oracles.config import OracleConfig
from adhere.recipe.training_section import TrainingSection
from adhere.sampling.sampler import SamplingConfig
from adhere.sampling.sampler_config import SamplerConfig
from adhere.training.health_config import HealthConfig
from adhere.training.method_config import DomainConfig, MethodConfig

Method = Literal["constrained", "sft", "filtered-sft", "rloo", "grpo", "dpo", "guided-decoding"]

EMBEDDED = "embedded"
"""As a path: the demo's own model, corpus or clean texts."""


class PromptsConfig(BaseModel):
    """What the policy is sampled from while guidance is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(
        None,
        description="a .txt file with a prompt a line, or JSONL, Parquet or CSV with a column prompt or text; without "
        "it the prompts of the training rows",
    )
    overlong: Overlong = Field(
        "error",
        description="what happens to a prompt that leaves no room for an output: error, or truncate its beginning",
    )


class ConstraintSection(BaseModel):
    """A rule that outputs must satisfy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    oracle: OracleConfig = Field(description="who judges: kind is embedded, regex, words, length, json, classifier, guard, "
                                 "moderation, judge, endpoint, perspective, callable, jigsaw, all, any or not")  # fmt: skip
    target: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="satisfaction asked for at every prompt; 1 is the hard constraint. With multiplier dual, the share of "
        "all outputs that is to satisfy it",
    )
    weight: float = Field(
        2.0,
        ge=0.0,
        allow_inf_nan=False,
        description="how hard the policy is held to it (λ); with multiplier dual, at first",
    )
    multiplier: Multiplier = Field(
        "fixed", description="fixed, or dual: λ is found in training, so that measured satisfaction comes to the target"
    )
    dual: DualConfig = Field(default_factory=DualConfig, description="how λ is found when multiplier is dual")
    name: str | None = Field(
        None,
        min_length=1,
        pattern=r"^[^/\s]+$",
        description="what logs and tables call it; the oracle's name without it",
    )

    @model_validator(mode="after")
    def _can_be_found(self) -> ConstraintSection:
        if self.multiplier == "dual" and (problem := dual_problem(self.target, self.weight, self.dual)):
            raise ValueError(problem)
        return self

    @property
    def label(self) -> str:
        """The name it goes by, as far as the recipe alone tells."""
        return self.name or _label(self.oracle)


class GuidanceSection(MethodConfig, RefreshConfig, ExecutionConfig):
    """How the policy is held to its constraints, how much is sampled for that, and where."""


class EvaluationSection(BaseModel):
    """How a model is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judges: tuple[OracleConfig, ...] = Field(
        (), description="second judges: oracles that nothing is trained against, so that no one is fooled by the first"
    )
    prompts: int | None = Field(None, ge=1, description="how many held-out prompts; all of them without it")
    samples_per_prompt: int = Field(1, ge=1, description="outputs drawn for each")
    clean_texts: Literal["none", "embedded"] | Path = Field(
        "none",
        union_mode="left_to_right",
        description="texts on which perplexity tells what else the model has kept: a file of them, embedded for 200 "
        "paragraphs of Wikipedia, or none",
    )
    clean_count: int | None = Field(None, ge=1, description="how many of the clean texts; all of them without it")
    toxicity_k: int | None = Field(
        None, ge=1, description="k of expected maximum toxicity and its kin; samples_per_prompt without it"
    )
    sampling: SamplingConfig | None = Field(
        None, description="how outputs are drawn here, where it differs from training"
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationSection:
        if self.toxicity_k is not None and self.toxicity_k > self.samples_per_prompt:
            raise ValueError(
                f"toxicity_k ({self.toxicity_k}) outputs of a prompt need samples_per_prompt of at least as many, got "
                f"{self.samples_per_prompt}"
            )
        return self


class Recipe(BaseModel):
    """A run: what is trained, on what, held to which rules, and how it is measured. Paths are relative to the working
    folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field(
        "constrained",
        description="constrained; or to compare with, on the same rows and steps: sft (plain fine-tuning), filtered-sft "
        "(without the rows that violate), rloo and grpo (reinforcement learning), dpo (preference optimisation), "
        "guided-decoding (plain fine-tuning, guided by NADO when it writes)",
    )
    model: ModelConfig = Field(description="which model is trained, and how much of it")
    corpus: CorpusConfig = Field(description="what it learns from; path: embedded is the demo's corpus")
    prompts: PromptsConfig = Field(default_factory=PromptsConfig, description="what it is sampled from")
    constraints: tuple[ConstraintSection, ...] = Field(min_length=1, description="the rules its outputs must satisfy")
    sampling: SamplerConfig = Field(default_factory=SamplerConfig, description="how outputs are drawn, and by what")
    guidance: GuidanceSection = Field(default_factory=GuidanceSection, description="how it is held to the rules")
    nado: NadoConfig = Field(default_factory=NadoConfig, description="shape of the auxiliary model")
    nado_fit: FitConfig = Field(default_factory=FitConfig, description="how the auxiliary model is fitted")
    training: TrainingSection = Field(default_factory=TrainingSection, description="how the weights are trained")
    baselines: BaselinesConfig = Field(
        default_factory=BaselinesConfig, description="settings of the methods to compare with: rloo, grpo and dpo"
    )
    domains: dict[str, DomainConfig] = Field(
        default_factory=dict, description="how the rows of a domain are trained, by the domain's name"
    )
    health: HealthConfig = Field(default_factory=HealthConfig, description="what is done when a run goes wrong")
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection, description="how the model is measured")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed of everything that is drawn but the held-out split")
    output_dir: Path = Field(description="folder of the run")

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        labels = [constraint.label for constraint in self.constraints] + [
            _label(judge) for judge in self.evaluation.judges
        ]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(
                    f"two of constraints and evaluation.judges are called {label!r}: give each its own name"
                )
        return self

    @model_validator(mode="after")
    def _judges_are_independent(self) -> Recipe:
        trained = {_identity(constraint.oracle): constraint.label for constraint in self.constraints}
        for number, judge in enumerate(self.evaluation.judges):
            if (label := trained.get(_identity(judge))) is not None:
                raise ValueError(
                    f"evaluation.judges[{number}] is the oracle of constraint {label!r}: a second judge must be one "
                    "that nothing is trained against"
                )
        return self

    @model_validator(mode="after")
    def _iterations_fit(self) -> Recipe:
        steps = self.training.max_steps
        iterations = self.guidance.iterations
        if self.method == "constrained" and steps is not None and iterations is not None and iterations > steps:
            raise ValueError(
                f"guidance.iterations ({iterations}) must be at most training.max_steps ({steps}): every "
                "iteration trains at least one step"
            )
        return self


def _label(oracle: OracleConfig) -> str:
    return getattr(oracle, "name", None) or oracle.kind


def _identity(oracle: OracleConfig) -> Any:
    return oracle.model_dump_json(exclude={"name"})
