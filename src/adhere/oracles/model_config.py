"""Oracles that are models on this machine, as a recipe writes them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from adhere.oracles.base import Oracle
from adhere.oracles.presets import CLASSIFIERS, GUARDS, ClassifierPreset, GuardPreset
from adhere.oracles.section import NamedSection


class ClassifierConfig(NamedSection):
    """A sequence classifier of transformers, from a folder or the hub."""

    kind: Literal["classifier"] = "classifier"
    preset: ClassifierPreset | None = Field(
        None, description="A model that many people use: sets model, label and multi_label."
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="Folder or hub name; weights in safetensors. With a preset, a copy of its model.",
    )
    label: str | None = Field(None, description="One of the model's labels; left out, the preset's, or toxic.")
    multi_label: bool | None = Field(
        None, description="Whether labels are independent of each other; left out, as the model's configuration says."
    )
    satisfied_when: Literal["absent", "present"] = Field(
        "absent", description="Whether the label must be absent or present."
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="Probability above which the label counts as present.")
    soft: bool = Field(False, description="Score the probability itself instead of 0 or 1.")
    batch_size: int = Field(32, ge=1, description="Texts at a time.")
    max_length: int | None = Field(
        None, ge=1, description="Tokens read of each text; left out, what the model can take."
    )
    device: str | None = Field(None, description='Such as "cuda:0"; left out, the first GPU if there is one.')
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Type of the weights.")
    prefix_closed: bool = Field(False, description="State it when a violating text stays violating however it goes on.")
    cache: bool = Field(False, description="Keep verdicts on this machine, for this run and others.")

    @model_validator(mode="after")
    def _some_model(self) -> ClassifierConfig:
        if self.model is None and self.preset is None:
            raise ValueError(f"model is missing: give a folder or a hub name, or a preset ({', '.join(CLASSIFIERS)})")
        return self

    def build(self) -> Oracle:
        from adhere.oracles.cached import CachedOracle
        from adhere.oracles.classifier import ClassifierOracle

        preset = CLASSIFIERS[self.preset] if self.preset is not None else None
        chosen = {
            "model": self.model or (preset.model if preset else ""),
            "label": self.label or (preset.label if preset else "toxic"),
            "multi_label": preset.multi_label if preset and self.multi_label is None else self.multi_label,
        }
        rest = {key: value for key, value in self._arguments().items() if key not in ("preset", "cache")}
        oracle = ClassifierOracle(**{**rest, **chosen})  # type: ignore[arg-type]
        return CachedOracle(oracle) if self.cache else oracle


class GuardConfig(NamedSection):
    """A safety model that writes its verdict (Llama Guard, ShieldGemma, WildGuard), run here; its probability counts."""

    kind: Literal["guard"] = "guard"
    preset: GuardPreset = Field(description="Which one: sets how it is asked and how its answers are read.")
    model: str | None = Field(
        None, min_length=1, description="Folder or hub name of another size or a copy; left out, the preset's."
    )
    policy: str | None = Field(
        None, min_length=1, description="The rule in words, for a preset whose prompt has a place for it (shieldgemma)."
    )
    judges_prompt: bool = Field(
        True, description="Show it the prompt as what the user asked; otherwise it is asked about an answer to nothing."
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="Probability of a violation above which there is one.")
    soft: bool = Field(False, description="Score the probability itself instead of 0 or 1.")
    batch_size: int = Field(8, ge=1, description="Texts at a time.")
    max_length: int | None = Field(
        None,
        ge=1,
        description="Tokens of prompt and text; a longer one gets no verdict. Left out, what the model can take.",
    )
    device: str | None = Field(None, description='Such as "cuda:0"; left out, the first GPU if there is one.')
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Type of the weights.")
    prefix_closed: bool = Field(False, description="State it when a violating text stays violating however it goes on.")
    cache: bool = Field(True, description="Keep verdicts on this machine, for this run and others.")

    @model_validator(mode="after")
    def _policy_has_a_place(self) -> GuardConfig:
        needed = GUARDS[self.preset].needs_policy
        if needed and self.policy is None:
            raise ValueError(f"policy is missing: {self.preset} judges by a rule that its prompt must hold")
        if not needed and self.policy is not None:
            raise ValueError(f"policy has no place in the prompt of {self.preset}, which judges by rules of its own")
        if self.soft and self.threshold != 0.5:
            raise ValueError(f"threshold is for verdicts of 0 or 1: leave it out with soft, got {self.threshold}")
        return self

    def build(self) -> Oracle:
        from adhere.oracles.cached import CachedOracle
        from adhere.oracles.guard import GuardOracle

        rest = {key: value for key, value in self._arguments().items() if key != "cache"}
        oracle = GuardOracle(**rest)  # type: ignore[arg-type]
        return CachedOracle(oracle) if self.cache else oracle
