"""Draw outputs from the policy.

Reproducible per prompt whatever the batch: every sample has its own stream of uniforms, seeded by (seed, prompt, replicate),
and each token is the inverse of the cumulative distribution at the next uniform. (Arithmetic may still differ in the last
bit with the batch's shape; the batches are planned from the prompts alone, so a resumed run repeats them exactly.)

    B batch · V vocabulary
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from adhere.data.tokenization import encode_prompt, pad_id
from adhere.errors import CorpusError
from adhere.records import Prompt, Sample

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from adhere.sampling.choice import InverseCdfChoice


class SamplingConfig(BaseModel):
    """How outputs are drawn. Left alone, they are true samples of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(64, ge=1, description="longest output, in tokens")
    batch_size: int = Field(64, ge=1, description="outputs drawn at the same time")
    temperature: float = Field(
        1.0,
        gt=0.0,
        allow_inf_nan=False,
        description="1 samples the model as it is; otherwise importance weights are kept",
    )
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus sampling; 1 is off")
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens; 0 is off")

    @property
    def untruncated(self) -> bool:
        """True when outputs are samples of the model itself."""
        return self.temperature == 1.0 and self.top_p == 1.0 and self.top_k == 0

    def settings(self) -> dict[str, object]:
        """What the samples depend on."""
        return self.model_dump(include=set(SamplingConfig.model_fields))


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts drawn together: the same for the same prompts, so that a stopped run can go on at a batch's boundary."""

    number: int
    items: tuple[tuple[Prompt, int], ...]  # (prompt, replicate)
    prompt_ids: tuple[tuple[int, ...], ...]


class Sampler(Protocol):
    """Draws outputs batch by batch, all from one policy. `TransformersSampler` is the one that is always there."""

    def plan(self, prompts: Sequence[Prompt], samples_per_prompt: int = 1) -> list[Batch]:
        """The batches in which these prompts will be sampled."""
        ...

    def draw(self, batch: Batch, seed: int) -> list[Sample]:
        """Sample one batch, in the order of its items."""
        ...

    def told(self) -> dict[str, float]:
        """For the log, numbers about the outputs drawn so far; none where all went as it should."""
        ...


class TransformersSampler:
    """Samples with transformers' `generate`.

    Args:
        model: the model to sample from, as it is now; put in eval mode for the time of a call.
        tokenizer: its tokenizer.
        config: how.
        guide: makes the LogitsProcessor of decode-time guidance from a batch's prompt mask [B, T] (`NadoGuide`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: SamplingConfig,
        guide: Callable[[Tensor], LogitsProcessor] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.config, self.guide = model, tokenizer, config, guide

    def plan(self, prompts: Sequence[Prompt], samples_per_prompt: int = 1) -> list[Batch]:
        """Prompts of similar length go together, so that little is padded.

        Raises:
            CorpusError: a prompt and `max_new_tokens` together are longer than the model's context.
        """
        return plan_batches(context_length(self.model), self.tokenizer, self.config, prompts, samples_per_prompt)

    def draw(self, batch: Batch, seed: int) -> list[Sample]:
        """Sample one batch, in the order of its items."""
        import torch
        from transformers import GenerationConfig

        from adhere.sampling.choice import InverseCdfChoice, float64_device
        from adhere.sampling.decoding import decode

        length = max(map(len, batch.prompt_ids))
        pad, ends = pad_id(self.tokenizer), end_ids(self.model, self.tokenizer)
        ids = [[pad] * (length - len(row)) + list(row) for row in batch.prompt_ids]
        uniforms_BT = np.stack(
            [
                np.random.default_rng([seed, prompt.index, replicate]).random(self.config.max_new_tokens)
                for prompt, replicate in batch.items
            ]
        )
        device = self.model.device
        prompt_mask = torch.tensor(
            [[0] * (length - len(row)) + [1] * len(row) for row in batch.prompt_ids], device=device
        )
        choice = InverseCdfChoice(
            torch.from_numpy(uniforms_BT).to(float64_device(device)),
            self.config,
            self.guide and self.guide(prompt_mask),
        )
        settings = GenerationConfig(
            max_new_tokens=self.config.max_new_tokens, do_sample=False, num_beams=1, pad_token_id=pad, eos_token_id=ends,
            bos_token_id=self.tokenizer.bos_token_id, use_cache=True,
        )  # fmt: skip
        with torch.inference_mode(), _as_it_is(self.model):
            ids_BT = torch.tensor(ids, device=device)
            outputs = decode(self.model, ids_BT, prompt_mask, settings, choice, leave=self.guide is None)
        return self._samples(batch, outputs, choice, ends)

    def told(self) -> dict[str, float]:
        """Nothing: tokens and their probabilities are the model's own."""
        return {}

    def _samples(
        self, batch: Batch, outputs: list[list[int]], choice: InverseCdfChoice, ends: list[int]
    ) -> list[Sample]:
        log_p_BT, log_s_BT = choice.log_probabilities()
        samples = []
        for row, ((prompt, replicate), output) in enumerate(zip(batch.items, outputs, strict=True)):
            end = next((place for place, token in enumerate(output) if token in ends), None)
            kept = output if end is None else output[: end + 1]
            log_p = float(log_p_BT[row, : len(kept)].sum())
            samples.append(
                Sample(
                    prompt_index=prompt.index,
                    replicate=replicate,
                    prompt=prompt.text,
                    output=str(
                        self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                    ),
                    prompt_ids=batch.prompt_ids[row],
                    output_ids=tuple(kept),
                    finished=end is not None,
                    log_probability=log_p,
                    log_importance=0.0
                    if self.config.untruncated and self.guide is None
                    else log_p - float(log_s_BT[row, : len(kept)].sum()),
                    domain=prompt.domain,
                )
            )
        return samples


def plan_batches(
    context: int,
    tokenizer: PreTrainedTokenizerBase,
    config: SamplingConfig,
    prompts: Sequence[Prompt],
    samples_per_prompt: int,
) -> list[Batch]:
    """The batches of every sampler: they depend on the prompts, the tokenizer and the batch size alone.

    Args:
        context: the longest sequence that the model takes (`context_length`).

    Raises:
        CorpusError: a prompt and `max_new_tokens` together are longer than the model's context.
    """
    encoded = {}
    for prompt in prompts:
        ids = tuple(encode_prompt(tokenizer, prompt.text))
        if len(ids) + config.max_new_tokens > context:
            raise CorpusError(
                f"prompt {prompt.index} ({prompt.text[:40]!r}…) has {len(ids)} tokens; with sampling.max_new_tokens = "
                f"{config.max_new_tokens} it exceeds the model's context of {context}; shorten the prompt, or lower "
                "sampling.max_new_tokens or corpus.max_prompt_length"
            )
        encoded[prompt.index] = ids
    items = [(prompt, replicate) for prompt in prompts for replicate in range(samples_per_prompt)]
    items.sort(key=lambda item: (len(encoded[item[0].index]), item[0].index, item[1]))
    size = config.batch_size
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    return [
        Batch(number, tuple(chunk), tuple(encoded[prompt.index] for prompt, _ in chunk))
        for number, chunk in enumerate(chunks)
    ]


def context_length(model: PreTrainedModel) -> int:
    """The longest sequence that a model takes, in tokens."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 1_000_000)


def seed_of(seed: int, prompt: Prompt, replicate: int) -> int:
    """For engines with random numbers of their own: a seed for one output, whatever it is drawn with; 31 bits."""
    return int(np.random.SeedSequence([seed, prompt.index, replicate]).generate_state(1)[0] >> 1)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an output: the tokenizer's, and those that the model's own generation settings name.

    A chat model may end a turn by one token and a text by another.
    """
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    also = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({int(tokenizer.eos_token_id), *map(int, also)})


@contextmanager
def _as_it_is(model: PreTrainedModel) -> Iterator[None]:
    """The model in eval mode, without generation settings of its own; afterwards it is what it was."""
    from transformers import GenerationConfig

    adapted = hasattr(model, "get_base_model")
    whole = cast("PreTrainedModel", cast("PeftModel", model).get_base_model()) if adapted else model
    training, own = model.training, whole.generation_config
    # Prefill hands the head a strided slice, which torch on CPU multiplies with frozen bfloat16 weights as a batch of
    # one-row products, a hundred times slower than a contiguous copy.
    hook = whole.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    # `generate` takes what its settings leave open from the model: a repetition penalty, say, and p would be another.
    whole.generation_config = GenerationConfig()
    model.eval()
    try:
        yield
    finally:
        hook.remove()
        whole.generation_config = own
        model.train(training)


def draw_all(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    samples_per_prompt: int = 1,
    progress: Callable[[int, int, float], None] | None = None,
) -> Iterator[Sample]:
    """Sample every prompt, batch after batch.

    Args:
        progress: called after each batch with (outputs drawn, outputs to draw, tokens per second so far).
    """
    batches = sampler.plan(prompts, samples_per_prompt)
    total, drawn, tokens, start = len(prompts) * samples_per_prompt, 0, 0, time.monotonic()
    for batch in batches:
        samples = sampler.draw(batch, seed)
        drawn, tokens = drawn + len(samples), tokens + sum(len(s.output_ids) for s in samples)
        if progress is not None:
            progress(drawn, total, tokens / max(time.monotonic() - start, 1e-9))
        yield from samples
