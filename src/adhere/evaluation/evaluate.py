"""Everything that is measured of one model: does it satisfy, by whose judgement, and what has it kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from adhere.errors import CorpusError, RecipeError
from adhere.evaluation.perplexity import (
    ScoredSequence,
    TokenLosses,
    example_sequences,
    perplexity,
    text_sequences,
    token_losses,
)
from adhere.evaluation.quality import outputs_by_prompt, quality
from adhere.evaluation.satisfaction import scores_by_prompt, violation_rate
from adhere.evaluation.toxicity import toxicity
from adhere.guidance.constraint import Constraint
from adhere.models.frozen import FrozenModel, fast_dtype
from adhere.oracles.again import judge_again
from adhere.oracles.base import Oracle, verdicts
from adhere.records import EvaluationResult, LabelledSample, Measurement, Prompt, Sample, Verdict
from adhere.sampling.sampler import SamplingConfig, TransformersSampler, draw_all

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str, int, int, str], None]
"""Told of every part: stage, done, total, note."""

_CHUNK = 64  # texts between two reports of progress


def evaluate_model(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    constraints: Sequence[Constraint],
    judges: Mapping[str, Oracle],
    clean_texts: Sequence[str],
    heldout: Dataset | None,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    toxicity_k: int | None,
    progress: Progress | None = None,
    guide: Callable[[Tensor], LogitsProcessor] | None = None,
) -> EvaluationResult:
    """Sample a model on held-out prompts and measure it.

    Args:
        name: what tables call the model: before, sft, constrained, ...
        prompts: what it is asked; none that it was trained on.
        constraints: by whose oracles `violation_rate` is told (tag `constraint` where there are several).
        judges: oracles that nothing was trained against, for `judge_violation_rate` (tag `judge`).
        clean_texts: for `clean_perplexity`; not measured when empty.
        heldout: tokenised rows that were not learned and satisfy the constraints, for `corpus_perplexity`; or None.
        seed: two models with the same seed, prompts and sampling draw with the same random numbers.
        toxicity_k: k of `emt`, `toxicity_probability`, `toxicity_fraction`; None for `samples_per_prompt`.
        guide: decode-time guidance (`NadoGuide`). Perplexities are then left out: they would be the model's alone.

    Returns:
        the measurements, the completions with all verdicts (judges' too), and the losses that perplexities are made of.
        Everything runs in the dtype in which inference is fastest here; the tag `dtype` of a perplexity names it.

    Raises:
        CorpusError: no prompts.
        RecipeError: a judge and a constraint share a name.
        OracleError: an oracle broke its contract, or gave no verdict at all.
    """
    if not prompts:
        raise CorpusError("there are no held-out prompts to evaluate on: hold some of the corpus out (corpus.holdout)")
    oracles = {constraint.name: constraint.oracle for constraint in constraints}
    if shared := oracles.keys() & judges.keys():
        raise RecipeError(f"a judge and a constraint are both called {min(shared)!r}; give the judge another name")
    tell = progress or (lambda stage, done, total, note: None)
    with inference_model(model) as still:
        sampler = TransformersSampler(still, tokenizer, sampling, guide)
        drawn = draw_all(
            sampler,
            prompts,
            seed=seed,
            samples_per_prompt=samples_per_prompt,
            progress=lambda done, total, speed: tell(f"sampling {name}", done, total, f"{speed:,.0f} tokens/s"),
        )
        completions = judged(list(drawn), {**oracles, **judges}, lambda d, t: tell(f"judging {name}", d, t, ""))
        measured = [*_verdicts(completions, list(oracles), list(judges), toxicity_k or samples_per_prompt, seed)]
        losses: dict[str, TokenLosses] = {}
        if guide is None:
            texts = text_sequences(still, tokenizer, clean_texts)
            losses = _losses(still, {"clean_perplexity": texts, "corpus_perplexity": _rows(heldout)}, name, tell)
        dtype = str(still.dtype).removeprefix("torch.")
    for of, each in losses.items():
        measurement = perplexity(each, of, seed)
        measurement.tags["dtype"] = dtype
        measured.append(measurement)
    outputs = outputs_by_prompt(completions)
    kept = {of: tuple(zip(each.nats_N.tolist(), each.tokens_N.tolist(), strict=True)) for of, each in losses.items()}
    return EvaluationResult(name, (*measured, *quality(outputs, seed)), tuple(completions), kept)


@contextmanager
def inference_model(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in the dtype in which inference is fastest here; itself where it has that dtype or an adapter."""
    dtype = fast_dtype(model.device)
    if model.dtype == dtype or hasattr(model, "peft_config"):
        yield model
    else:
        with FrozenModel(model, dtype).lent() as still:
            yield still


def judged(
    samples: Sequence[Sample], oracles: Mapping[str, Oracle], told: Callable[[int, int], None] | None = None
) -> list[LabelledSample]:
    """The samples with every oracle's verdict, by the name it has here."""
    found: list[dict[str, Verdict]] = [{} for _ in samples]
    total = len(samples) * len(oracles)
    for number, (name, oracle) in enumerate(oracles.items()):
        for start in range(0, len(samples), _CHUNK):
            part = samples[start : start + _CHUNK]
            said = verdicts(oracle, [s.prompt for s in part], [s.output for s in part])
            for offset, verdict in enumerate(said):
                found[start + offset][name] = verdict
            if told is not None:
                told(number * len(samples) + start + len(part), total)
        scores = [of_sample[name].score for of_sample in found]
        again = judge_again(oracle, [s.prompt for s in samples], [s.output for s in samples], scores)
        for of_sample, score in zip(found, again, strict=True):
            of_sample[name] = Verdict(score)
    return [LabelledSample(sample, verdict) for sample, verdict in zip(samples, found, strict=True)]


def losses_of(result: EvaluationResult, name: str) -> TokenLosses:
    """The losses behind a perplexity of a result. Raises KeyError when it was not measured."""
    pairs = result.losses[name]
    return TokenLosses(
        np.array([nats for nats, _ in pairs], dtype=np.float64),
        np.array([tokens for _, tokens in pairs], dtype=np.int64),
    )


def _verdicts(
    completions: Sequence[LabelledSample], constraints: Sequence[str], judges: Sequence[str], k: int, seed: int
) -> Iterator[Measurement]:
    for constraint in constraints:
        scores = scores_by_prompt(completions, constraint)
        for measurement in (violation_rate(scores, seed=seed), *toxicity(scores, k, seed)):
            if len(constraints) > 1:
                measurement.tags["constraint"] = constraint
            yield measurement
    for judge in judges:
        measurement = violation_rate(scores_by_prompt(completions, judge), "judge_violation_rate", seed)
        measurement.tags["judge"] = judge
        yield measurement


def _losses(
    model: PreTrainedModel, sequences: Mapping[str, Sequence[ScoredSequence]], name: str, tell: Progress
) -> dict[str, TokenLosses]:
    wanted = {of: each for of, each in sequences.items() if any(len(s.input_ids) > s.start for s in each)}
    total = sum(map(len, wanted.values()))
    done, losses = 0, {}
    for of, each in wanted.items():
        # Cut after sorting, so that the parts waste no padding.
        order = sorted(range(len(each)), key=lambda place: len(each[place].input_ids), reverse=True)
        nats_N, tokens_N = np.zeros(len(each), dtype=np.float64), np.zeros(len(each), dtype=np.int64)
        for start in range(0, len(order), _CHUNK):
            places = order[start : start + _CHUNK]
            part = token_losses(model, [each[place] for place in places])
            nats_N[places], tokens_N[places] = part.nats_N, part.tokens_N
            done += len(places)
            tell(f"perplexity {name}", done, total, of.removesuffix("_perplexity"))
        losses[of] = TokenLosses(nats_N, tokens_N)
    return losses


def _rows(heldout: Dataset | None) -> list[ScoredSequence]:
    return [] if heldout is None or len(heldout) == 0 else example_sequences(heldout)
