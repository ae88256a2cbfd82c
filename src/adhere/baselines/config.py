"""How the methods that ours is compared with are run, as a section of a recipe; needs no torch.

What fine-tuning on the corpus means for them: reinforcement learning (rloo, grpo) and preference optimisation (dpo) do not
learn from a corpus. They begin with plain fine-tuning on it, on the same rows as every method, for `corpus_share` of the
run's optimiser steps; the rest of the steps is theirs, held near the fine-tuned model. So all methods take the same number
of steps, and what else each has used stands in the run's costs.json.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ReinforcementConfig(BaseModel):
    """Reinforcement learning with the oracle's score as the reward (methods rloo and grpo)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(1e-5, gt=0.0, allow_inf_nan=False, description="peak learning rate of AdamW")
    beta: float = Field(
        0.05, ge=0.0, allow_inf_nan=False, description="weight of the KL to the fine-tuned model it begins with"
    )
    prompts_per_step: int = Field(8, ge=1, description="different prompts in an optimiser step")
    generations: int = Field(4, ge=2, description="outputs drawn for each; they are each other's baseline")


class PreferenceConfig(BaseModel):
    """Preference optimisation on pairs that the oracle ranked (method dpo)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(1e-5, gt=0.0, allow_inf_nan=False, description="peak learning rate of AdamW")
    beta: float = Field(
        0.1, gt=0.0, allow_inf_nan=False, description="how near it stays to the fine-tuned model it begins with"
    )
    samples: int | None = Field(
        None,
        ge=2,
        description="outputs drawn to make pairs of; without it as many as the constrained method draws, "
        "guidance.samples in each of its iterations",
    )
    samples_per_prompt: int = Field(
        4, ge=2, description="of them for each prompt: those that satisfy are paired with those that violate"
    )
    corpus: bool = Field(
        False, description="let the corpus rows of a prompt take part in its pairs, beside the model's own outputs"
    )


class BaselinesConfig(BaseModel):
    """Settings of the methods that ours is compared with; the other methods do not look at them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus_share: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
        description="share of the optimiser steps in which rloo, grpo and dpo fine-tune on the corpus, before their own",
    )
    reward: Literal["product", "mean"] = Field(
        "product", description="one score of several constraints' for rloo and grpo: their product or their mean"
    )
    reinforcement: ReinforcementConfig = Field(
        default_factory=ReinforcementConfig, description="reinforcement learning: rloo and grpo"
    )
    preference: PreferenceConfig = Field(default_factory=PreferenceConfig, description="preference optimisation: dpo")
