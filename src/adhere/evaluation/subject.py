"""The model that a suite measures, and how it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adhere.data.prompts import fit_to_context
from adhere.records import Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler, draw_all

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str, int, int, str], None]
"""Told of every part: stage, done, total, note."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under a name, with its tokenizer: plain, or guided at decode time (`sampling.guided_model`)."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def context_length(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 1_000_000)


def write(
    subject: Subject,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    samples_per_prompt: int = 1,
    seed: int = 0,
    told: Progress | None = None,
    what: str = "",
) -> list[Sample]:
    """Outputs for every prompt, in the order of the prompts; a prompt too long for the context loses its beginning.

    Args:
        prompts: texts; the same text twice is asked twice.
        what: what progress calls the prompts.
    """
    numbered = [Prompt(index, text) for index, text in enumerate(prompts)]
    numbered = fit_to_context(numbered, subject.tokenizer, subject.context_length, sampling.max_new_tokens, "truncate")
    sampler = TransformersSampler(subject.model, subject.tokenizer, sampling)
    stage = f"{what} {subject.name}".strip()
    drawn = draw_all(
        sampler,
        numbered,
        seed=seed,
        samples_per_prompt=samples_per_prompt,
        progress=told and (lambda done, total, speed: told(stage, done, total, f"{speed:,.0f} tokens/s")),
    )
    return sorted(drawn, key=lambda sample: (sample.prompt_index, sample.replicate))
