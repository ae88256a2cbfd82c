"""Oracles as a recipe writes them: `kind` says which, the other keys are that oracle's own."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adhere.oracles.base import Oracle
from adhere.oracles.model_config import ClassifierConfig, GuardConfig
from adhere.oracles.remote_config import EndpointConfig, JudgeConfig, ModerationConfig, PerspectiveConfig
from adhere.oracles.section import NamedSection as _Named
from adhere.oracles.section import OracleSection as _Config


class EmbeddedConfig(_Named):
    """No profanity, by alt-profanity-check at the worst word; nothing to download."""

    kind: Literal["embedded"] = "embedded"
    soft: bool = Field(False, description="Score 1 - P(profane) instead of 0 or 1.")

    def build(self) -> Oracle:
        from adhere.oracles.embedded import EmbeddedOracle

        return EmbeddedOracle(**self._arguments())  # type: ignore[arg-type]


class RegexConfig(_Named):
    """A pattern that must not, or must, be found in the output."""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(description="Regular expression as Python's `re` reads it; flags go inside, as in (?i).")
    mode: Literal["forbidden", "required"] = Field(
        "forbidden", description="Whether the pattern is forbidden or required."
    )
    prefix_closed: bool | None = Field(
        None, description="State whether a violating text stays violating; left out, found from the pattern."
    )

    def build(self) -> Oracle:
        from adhere.oracles.rules import RegexOracle

        return RegexOracle(**self._arguments())  # type: ignore[arg-type]


class WordsConfig(_Named):
    """None of these words or phrases as a whole word, upper and lower case alike."""

    kind: Literal["words"] = "words"
    words: tuple[str, ...] | None = Field(None, description="The forbidden words or phrases.")
    path: Path | None = Field(None, description="UTF-8 file with one word or phrase a line, instead of `words`.")

    def build(self) -> Oracle:
        from adhere.oracles.rules import WordListOracle

        return WordListOracle(**self._arguments())  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _one_source(self) -> WordsConfig:
        if (self.words is None) == (self.path is None):
            raise ValueError("give either words or path")
        return self


class LengthConfig(_Named):
    """At least `minimum` and at most `maximum` words or characters."""

    kind: Literal["length"] = "length"
    minimum: int | None = Field(None, ge=0, description="Least length.")
    maximum: int | None = Field(None, ge=0, description="Greatest length.")
    unit: Literal["words", "characters"] = Field("words", description="What is counted.")

    def build(self) -> Oracle:
        from adhere.oracles.rules import LengthOracle

        return LengthOracle(**self._arguments())  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _a_range(self) -> LengthConfig:
        if self.minimum is None and self.maximum is None:
            raise ValueError("give minimum or maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self


class JsonConfig(_Named):
    """The whole output is valid JSON."""

    kind: Literal["json"] = "json"
    required_keys: tuple[str, ...] = Field(
        (), description="Keys that the object must have; with any, it must be an object."
    )

    def build(self) -> Oracle:
        from adhere.oracles.rules import JsonOracle

        return JsonOracle(**self._arguments())  # type: ignore[arg-type]


class CallableConfig(_Named):
    """A Python function: `function(outputs)`, or `function(prompts, outputs)` with `judges_prompt`."""

    kind: Literal["callable"] = "callable"
    function: str = Field(description='Where it is: "package.module:function". It runs with all your rights.')
    judges_prompt: bool = Field(False, description="Pass the prompts as well.")
    prefix_closed: bool = Field(False, description="State it when a violating text stays violating however it goes on.")
    version: str | None = Field(None, description="Of the verdicts; left out, a digest of the function's file.")

    def build(self) -> Oracle:
        from adhere.oracles.callable import CallableOracle

        return CallableOracle(**self._arguments())  # type: ignore[arg-type]


class JigsawConfig(_Named):
    """The network fitted on the Jigsaw toxic comments; fetched when it is first built."""

    kind: Literal["jigsaw"] = "jigsaw"
    label: Literal["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"] = Field(
        "toxic", description="What the output must be free of."
    )
    soft: bool = Field(False, description="Score 1 - P(label) instead of 0 or 1.")

    def build(self) -> Oracle:
        from adhere.oracles.jigsaw import JigsawOracle

        return JigsawOracle(**self._arguments())  # type: ignore[arg-type]


class AllConfig(_Config):
    """Every one of several oracles: `&`."""

    kind: Literal["all"] = "all"
    oracles: tuple[OracleConfig, ...] = Field(min_length=1, description="The oracles that must all be satisfied.")

    def build(self) -> Oracle:
        return reduce(and_, [build_oracle(config) for config in self.oracles])


class AnyConfig(_Config):
    """One of several oracles at least: `|`."""

    kind: Literal["any"] = "any"
    oracles: tuple[OracleConfig, ...] = Field(min_length=1, description="The oracles of which one must be satisfied.")

    def build(self) -> Oracle:
        return reduce(or_, [build_oracle(config) for config in self.oracles])


class NotConfig(_Config):
    """The opposite of an oracle: `~`."""

    kind: Literal["not"] = "not"
    oracle: OracleConfig = Field(description="The oracle that must be violated.")

    def build(self) -> Oracle:
        return ~build_oracle(self.oracle)


OracleConfig = Annotated[
    EmbeddedConfig
    | RegexConfig
    | WordsConfig
    | LengthConfig
    | JsonConfig
    | ClassifierConfig
    | GuardConfig
    | ModerationConfig
    | JudgeConfig
    | EndpointConfig
    | PerspectiveConfig
    | CallableConfig
    | JigsawConfig
    | AllConfig
    | AnyConfig
    | NotConfig,
    Field(discriminator="kind"),
]

for _recursive in (AllConfig, AnyConfig, NotConfig):
    _recursive.model_rebuild()


def build_oracle(config: OracleConfig) -> Oracle:
    """The oracle that a section of a recipe describes.

    Raises:
        OracleError, ModelError, DownloadError: what it needs is wrong or missing.
    """
    oracle = config.build()
    oracle.section = config
    return oracle
