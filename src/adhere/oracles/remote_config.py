"""Oracles behind a service, as a recipe writes them.

What decides a verdict stands in the section itself. `limits` and `price` do not change what is said, only how it is asked
and what it costs: a run may be resumed with others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adhere.oracles.base import Oracle
from adhere.oracles.public import Address, Headers, KeyPrefix, KeyVariable, NoSecrets, PublicJson
from adhere.oracles.section import NamedSection


class LimitsConfig(BaseModel):
    """How a service is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(8, ge=1, le=512, description="Requests under way at once.")
    requests_per_minute: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Requests a minute, evenly spread; left out, as many as go."
    )
    tokens_per_minute: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Tokens a minute: a quarter of the bytes sent, until the service tells how many it were.",
    )
    timeout: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="Seconds for one request, to the last byte of its answer."
    )
    attempts: int = Field(5, ge=1, le=100, description="Times that one request is tried before it gets no verdict.")
    budget: float = Field(
        3600.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for one batch of outputs in all; what has no answer by then gets no verdict for now.",
    )
    cache: bool = Field(True, description="Keep verdicts on this machine, for this run and others.")


class PriceConfig(BaseModel):
    """What asking costs, in any one currency, for the log and for `adhere check`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_call: float = Field(0.0, ge=0, allow_inf_nan=False, description="For a request.")
    per_million_input_tokens: float = Field(0.0, ge=0, allow_inf_nan=False, description="For tokens sent.")
    per_million_output_tokens: float = Field(0.0, ge=0, allow_inf_nan=False, description="For tokens written.")


class RemoteSection(NamedSection):
    """What all oracles behind a service have."""

    soft: bool = Field(False, description="Score the probability itself instead of 0 or 1.")
    prefix_closed: bool = Field(
        False,
        description="State it when a violating text stays violating however it goes on; every prefix of a violating output "
        "is then asked about too, which takes many calls.",
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="How the service is asked.")
    price: PriceConfig = Field(default_factory=PriceConfig, description="What a call costs.")

    def _cached(self, oracle: Oracle) -> Oracle:
        from adhere.oracles.cached import CachedOracle

        return CachedOracle(oracle) if self.limits.cache else oracle


class ThresholdSection(RemoteSection):
    """Those whose probability is turned into a verdict here."""

    threshold: float = Field(0.5, gt=0, lt=1, description="Probability of a violation above which there is one.")

    @model_validator(mode="after")
    def _soft_has_none(self) -> ThresholdSection:
        if self.soft and self.threshold != 0.5:
            raise ValueError(f"threshold is for verdicts of 0 or 1: leave it out with soft, got {self.threshold}")
        return self


class ModerationConfig(RemoteSection):
    """A moderation service with OpenAI's interface."""

    kind: Literal["moderation"] = "moderation"
    url: Address = Field("https://api.openai.com/v1/moderations", description="Where it is.")
    model: str = Field("omni-moderation-latest", min_length=1, description="Which of its models.")
    key_variable: KeyVariable | None = Field(
        "OPENAI_API_KEY", description="Environment variable with the key; null for a service without one."
    )
    categories: tuple[str, ...] | None = Field(
        None, min_length=1, description="Categories that must not apply, such as hate; left out, all of them."
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Score above which a category applies; left out, the service's own decision is taken.",
    )
    batch_size: int = Field(32, ge=1, le=1024, description="Texts to a request.")

    @model_validator(mode="after")
    def _soft_has_none(self) -> ModerationConfig:
        if self.soft and self.threshold is not None:
            raise ValueError(f"threshold is for verdicts of 0 or 1: leave it out with soft, got {self.threshold}")
        return self

    def build(self) -> Oracle:
        from adhere.oracles.moderation import ModerationOracle

        return self._cached(ModerationOracle(**self._arguments()))  # type: ignore[arg-type]


class JudgeConfig(ThresholdSection):
    """A language model that reads a rule and the text, behind any chat service with OpenAI's interface."""

    kind: Literal["judge"] = "judge"
    model: str = Field(min_length=1, description="Which model judges, as the service names it.")
    rubric: str = Field(min_length=1, description="The rule that the text must keep, in your words.")
    url: Address = Field("https://api.openai.com/v1/chat/completions", description="Where it is.")
    key_variable: KeyVariable | None = Field(
        "OPENAI_API_KEY", description="Environment variable with the key; null for a service without one."
    )
    judges_prompt: bool = Field(False, description="Show it the prompt as well.")
    method: Literal["auto", "logprobs", "json"] = Field(
        "auto",
        description="Take the probability from the log-probabilities of its one-word verdict, or have it write JSON; auto: "
        "the first where the service offers it.",
    )
    request: Annotated[dict[str, Any], NoSecrets] = Field(
        default_factory=dict,
        description="Further keys of the request, such as {seed: 1}; null takes one of ours out.",
    )

    def build(self) -> Oracle:
        from adhere.oracles.llm_judge import JudgeOracle

        return self._cached(JudgeOracle(**self._arguments()))  # type: ignore[arg-type]


class EndpointConfig(ThresholdSection):
    """Any service that takes JSON and answers with JSON that has a number in it."""

    kind: Literal["endpoint"] = "endpoint"
    url: Address = Field(description="Where it is; asked by POST.")
    request: PublicJson = Field(
        description='JSON to send; {output} and {prompt} in its strings are filled in, the string "{outputs}" (or '
        '"{prompts}") becomes a list of them.'
    )
    score_path: str = Field(
        min_length=1,
        description='Where the number is in the answer: "result.0.score"; with {outputs}, * stands for each: '
        '"results.*.score".',
    )
    direction: Literal["satisfied", "violation"] = Field(
        description="Whether the number, between 0 and 1, is the probability that the rule is kept, or that it is broken."
    )
    key_variable: KeyVariable | None = Field(
        None, description="Environment variable with the key; left out for a service without one."
    )
    key_header: str = Field("Authorization", pattern=r"^[A-Za-z0-9-]+$", description="Header that carries the key.")
    key_prefix: KeyPrefix = Field("Bearer ", description="What stands before the key there.")
    headers: Headers = Field(default_factory=dict, description="Further headers; none that is a secret.")
    batch_size: int = Field(32, ge=1, le=4096, description="Texts to a request, where it has {outputs}.")
    version: str = Field("1", min_length=1, description="Change it when the service behind the address changes.")

    def build(self) -> Oracle:
        from adhere.oracles.endpoint import EndpointOracle

        return self._cached(EndpointOracle(**self._arguments()))  # type: ignore[arg-type]


class PerspectiveConfig(ThresholdSection):
    """Google's Perspective. Legacy: the service ends on 2026-12-31."""

    kind: Literal["perspective"] = "perspective"
    attribute: Literal[
        "TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT", "SEXUALLY_EXPLICIT"
    ] = Field("TOXICITY", description="What the output must be free of.")
    languages: tuple[str, ...] = Field(
        ("en",), description="Of the texts, as two letters; empty to let it find out for itself."
    )
    url: Address = Field(
        "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze",
        description="Where it is, or a service that speaks the same language.",
    )
    key_variable: KeyVariable | None = Field("PERSPECTIVE_API_KEY", description="Environment variable with the key.")
    limits: LimitsConfig = Field(
        default_factory=lambda: LimitsConfig(requests_per_minute=60), description="How the service is asked."
    )

    def build(self) -> Oracle:
        from adhere.oracles.perspective import PerspectiveOracle

        return self._cached(PerspectiveOracle(**self._arguments()))  # type: ignore[arg-type]
