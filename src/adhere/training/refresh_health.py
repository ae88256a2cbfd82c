"""What a refresh shows of a run's health: guidance that says nothing though outputs violate, and outputs that collapse.

Both are measured on what is on disk, so a resumed run comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from adhere import ranks
from adhere.data.sample_store import SampleStore
from adhere.errors import HealthError
from adhere.training.health_config import HealthConfig

if TYPE_CHECKING:
    from datasets import Dataset

    from adhere.guidance.guidance import Guidance
    from adhere.records import LabelledSample
    from adhere.training.trainer import ConstrainedTrainer

LEAST_OUTPUTS = 32
"""Of fewer outputs the share of empty ones says too little: 8 of 16 come by chance where a quarter are."""

LEAST_VIOLATIONS = 0.05
"""Where fewer outputs violate, a NADO that is certain nearly everywhere is right. Of these, about half of the positions come
after the violation or just before it: 2.5 % of all, more than twice the 1 % that a saturated NADO has any doubt about."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a set of outputs looks like, without looking at what they say."""

    outputs: int
    empty: float  # share
    length: float  # mean, in tokens
    distinct: float  # distinct bigrams of tokens, as a share of all; 1 without any


def shape_of(outputs: Sequence[Sequence[int]]) -> Shape:
    """The shape of outputs given as token ids, without what ends them."""
    pairs = [pair for ids in outputs for pair in pairwise(ids)]
    count = max(1, len(outputs))
    empty = sum(not ids for ids in outputs) / count
    return Shape(len(outputs), empty, sum(map(len, outputs)) / count, len(set(pairs)) / len(pairs) if pairs else 1.0)


def collapse(now: Shape, first: Shape, corpus: Shape, config: HealthConfig) -> str:
    """What has collapsed, in words; empty when nothing has.

    What the corpus itself looks like is no collapse: a policy that has learned to write short answers is right to.
    """
    if now.outputs < LEAST_OUTPUTS:
        return ""
    if now.empty > max(config.max_empty, corpus.empty, first.empty):
        return f"{now.empty:.0%} of the outputs are empty (health.max_empty: {config.max_empty:.0%})"
    if now.length < config.min_length * (expected := min(first.length, corpus.length)):
        return (
            f"outputs are {now.length:.1f} tokens long, less than {config.min_length:.0%} of {expected:.1f} in the first "
            "iteration or the corpus (health.min_length)"
        )
    if now.distinct < config.min_distinct * (expected := min(first.distinct, corpus.distinct)):
        return (
            f"{now.distinct:.0%} of the outputs' bigrams are distinct, less than {config.min_distinct:.0%} of "
            f"{expected:.0%} in the first iteration or the corpus (health.min_distinct)"
        )
    return ""


def saturation(guidance: Guidance, config: HealthConfig) -> Iterator[str]:
    """A sentence for each constraint whose NADO is certain of satisfaction though outputs violate."""
    for name, quality in guidance.version.quality.items():
        certain, violating = quality.get("certain", 0.0), 1.0 - quality.get("base_rate", 1.0)
        if certain >= config.saturated_share and violating >= LEAST_VIOLATIONS:
            yield (
                f"constraint {name}: NADO is certain of satisfaction at {certain:.1%} of the positions "
                f"(health.saturated_share), and {violating:.0%} of the outputs violate: it has nothing to say of them"
            )


def check_refresh(trainer: ConstrainedTrainer, guidance: Guidance, samples: Sequence[LabelledSample]) -> None:
    """Look at guidance that is taken up and at the fresh outputs it was fitted on.

    Raises:
        HealthError: one of them went wrong, and the recipe says to stop at that.
    """
    config, iteration = trainer.health, guidance.version.iteration
    faults = [("saturated_guidance", what) for what in saturation(guidance, config)]
    if iteration and samples:
        first = ranks.on_first(lambda: SampleStore(trainer.run_folder).samples(0))
        ids = [_without_end(s.output_ids, s.finished) for s in first]
        rows = _completions(trainer.train_dataset, len(samples), trainer.tokenizer.eos_token_id)
        now = shape_of([_without_end(item.sample.output_ids, item.sample.finished) for item in samples])
        if what := collapse(now, shape_of(ids), shape_of(rows), config):
            faults.append(("collapsed_outputs", what))
    for kind, what in faults:
        policy = getattr(config, kind)
        sentence = f"iteration {iteration}: {what}"
        numbers: dict[str, Any] = {"fault": kind, "policy": policy, "sentence": sentence}
        if trainer.is_world_process_zero():
            trainer.progress.event("fault", trainer.state.global_step, numbers)
        if policy == "stop":
            raise HealthError(
                f"{sentence}. The run has stopped; its samples and labels are in {trainer.run_folder}, and its checkpoint of "
                f"step {guidance.version.policy_step} is from before. {_ADVICE[kind]}; to go on all the same, set "
                f"health.{kind}=warn and give --resume"
            )


_ADVICE = {
    "saturated_guidance": "Look at the labels; begin anew with more evidence (guidance.samples, nado_fit.corpus_rows) or a "
    "slower fit (nado_fit.learning_rate)",
    "collapsed_outputs": "Look at the samples; begin anew with a lower training.learning_rate or weight of the constraint, "
    "or with guidance.reference_kl",
}


def _without_end(ids: Sequence[int], finished: bool) -> Sequence[int]:
    return ids[:-1] if finished else ids


def _completions(rows: Dataset, count: int, end: int | None) -> list[Sequence[int]]:
    """Token ids of the completions of so many rows, evenly spaced over the corpus."""
    chosen = rows[:: max(1, len(rows) // max(1, count))]
    found: Iterable[tuple[list[int], int]] = zip(chosen["input_ids"], chosen["prompt_length"], strict=True)
    parts = [ids[start:] for ids, start in found]
    return [part[:-1] if part and part[-1] == end else part for part in parts]
