"""How guidance is made, as sections of a recipe; apart from what makes it, so that reading them needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from adhere.guidance.ray_config import RayConfig

ExecutorName = Literal["in-process", "worker", "ray"]


class FitConfig(BaseModel):
    """How the auxiliary model is fitted in each iteration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(8, ge=1, description="passes over the labelled sequences; the best by held-out loss is kept")
    learning_rate: float = Field(1e-3, gt=0.0, allow_inf_nan=False, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0.0, allow_inf_nan=False, description="weight decay of AdamW")
    averaging: float = Field(
        0.97,
        ge=0.0,
        lt=1.0,
        description="decay a step of the moving average of the weights that is kept; 0: no average",
    )
    batch_size: int = Field(32, ge=1, description="sequences a step")
    td_lambda: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description="a clean prefix learns this much of the final label, the rest of the next prefix",
    )
    consistency_weight: float = Field(1.0, ge=0.0, allow_inf_nan=False, description="weight of forward consistency")
    consistency_positions: int = Field(
        768, ge=0, description="positions an iteration where forward consistency is asked"
    )
    corpus_rows: int = Field(1024, ge=0, description="labelled corpus rows that are fitted beside the samples")
    held_out: float = Field(0.1, gt=0.0, lt=0.5, description="share of the sequences kept to stop early and to report")


class RefreshConfig(BaseModel):
    """How much is sampled for each guidance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(
        256, ge=2, description="outputs sampled from the policy in each iteration; take more where few of them violate"
    )
    samples_per_prompt: int = Field(1, ge=1, description="outputs drawn for each prompt")
    max_without_verdict: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="largest share of outputs, or of corpus rows, without a verdict, asked for again, that a run goes on "
        "with; above it the run pauses",
    )

    def settings(self) -> dict[str, object]:
        """What samples depend on: all but how many verdicts may be missing, which may be another in a resumed run."""
        return self.model_dump(exclude={"max_without_verdict"})


class ExecutionConfig(BaseModel):
    """Where guidance is refreshed, and what happens when that fails; no result depends on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    executor: ExecutorName | None = Field(
        None,
        description="where guidance is refreshed: in-process, worker (one process beside the training) or ray (a cluster); "
        "without it worker where schedule is parallel, else in-process",
    )
    worker_device: str | None = Field(
        None, min_length=1, description="device of the worker, such as cuda:1 or cpu; the training's without it"
    )
    worker_threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of a worker on the CPU, taken from those of a training there while both compute; half of "
        "them without it",
    )
    refresh_timeout: float = Field(
        1800.0,
        gt=0.0,
        allow_inf_nan=False,
        description="seconds without a sign of life of the worker (a batch sampled or judged, a step of a fit) after which it "
        "is taken for hung and started anew",
    )
    max_failures: int = Field(
        5,
        ge=1,
        description="failures of a refresh in a row after which the run stops with a checkpoint; until then training goes on "
        "with the guidance it has, and the refresh is tried again",
    )

    ray: RayConfig = Field(
        default_factory=RayConfig, description="which Ray cluster, and how much of it, with executor ray"
    )

    def where(self, schedule: str) -> ExecutorName:
        """The executor that is asked for, or the one that goes with a schedule."""
        return self.executor or ("worker" if schedule == "parallel" else "in-process")
