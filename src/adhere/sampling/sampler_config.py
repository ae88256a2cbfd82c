"""What draws the outputs, as the `sampling` section of a recipe. Importing this brings no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adhere.oracles.public import Address, KeyVariable
from adhere.sampling.sampler import SamplingConfig

Backend = Literal["transformers", "server", "vllm"]
Weights = Literal["adapter", "reload", "fixed"]


class ServerConfig(BaseModel):
    """A server that draws: vLLM, or any other with OpenAI's /v1/completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Address = Field(description="its base, up to /v1: http://127.0.0.1:8000/v1")
    model: str | None = Field(None, description="as the server calls the model; without it, the first that it lists")
    key_variable: KeyVariable | None = Field(None, description="environment variable with the server's key")
    weights: Weights | None = Field(
        None,
        description="how the server gets the policy's weights as they change: adapter (vLLM loads the LoRA adapter while it "
        "runs), reload (vLLM reads all weights again), fixed (never: outputs of the served model get importance weights). "
        "Without it: adapter where model.lora is, else reload",
    )
    folder: Path | None = Field(
        None,
        description="where the weights are put down for the server to read: a folder that both see. Without it one in "
        "this machine's temporary files, right for a server on this machine",
    )
    concurrency: int = Field(64, ge=1, le=1024, description="outputs asked for at the same time")
    timeout: float = Field(600.0, gt=0, allow_inf_nan=False, description="seconds for one output, or for new weights")
    attempts: int = Field(5, ge=1, le=100, description="times that one output is asked for before the run stops")


class VllmConfig(BaseModel):
    """vLLM in this process, beside the trainer or in its worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu_memory_utilization: float = Field(
        0.3, gt=0.0, le=1.0, description="share of the GPU's memory that vLLM takes for weights and cache"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share the model")
    max_model_len: int | None = Field(None, ge=2, description="longest prompt and output together, in tokens")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="of the weights")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="anything else that vllm.LLM takes, by its name"
    )

    @model_validator(mode="after")
    def _nothing_that_changes_p(self) -> VllmConfig:
        ours = {*type(self).model_fields, "model", "tokenizer", "enable_lora", "max_lora_rank", "generation_config"}
        if taken := sorted(ours.intersection(self.arguments)):
            raise ValueError(f"arguments may not hold {', '.join(taken)}: it is set here, or by the run")
        return self


class SamplerConfig(SamplingConfig):
    """How outputs are drawn to make guidance from, and by what. Left alone, they are true samples of the model."""

    backend: Backend = Field(
        "transformers",
        description="what draws: transformers (here), server (vLLM, or another with OpenAI's completions) or vllm (in this "
        "process). Models are measured with transformers, whatever stands here",
    )
    server: ServerConfig | None = Field(None, description="which server, with backend server")
    vllm: VllmConfig | None = Field(None, description="how vLLM runs, with backend vllm")

    @model_validator(mode="after")
    def _one_backend(self) -> SamplerConfig:
        if self.backend == "server" and self.server is None:
            raise ValueError("backend server needs a section server with its url")
        for name in ("server", "vllm"):
            if getattr(self, name) is not None and self.backend != name:
                raise ValueError(f"a section {name} needs backend {name}, got {self.backend}")
        if self.backend != "transformers" and not super().untruncated:
            raise ValueError(
                f"backend {self.backend} draws from the model itself: temperature must be 1, top_p 1 and top_k 0 (with "
                "backend transformers they may be others, and outputs get importance weights)"
            )
        return self

    @property
    def untruncated(self) -> bool:
        """True when outputs are samples of the model itself: not so where a server draws with weights of its own."""
        return super().untruncated and not self.draws_from_another

    @property
    def draws_from_another(self) -> bool:
        """True when a server draws that keeps the weights it has."""
        return self.server is not None and self.server.weights == "fixed"

    def settings(self) -> dict[str, object]:
        """What the samples depend on: where a server is and how often it is asked is not part of it."""
        own = super().settings()
        if self.backend != "transformers":
            own |= {"backend": self.backend, "fixed": self.draws_from_another}
        return own
