"""Pairs of outputs to one prompt, of which one satisfies the constraints and the other violates one, by the oracles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adhere.baselines.reward import combined
from adhere.errors import RecipeError
from adhere.oracles.base import violates
from adhere.records import LabelledSample, Verdict

if TYPE_CHECKING:
    from datasets import Dataset

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An output that may stand in a pair, as tokens: what was drawn is learned, not what its text is tokenised to."""

    prompt_ids: Ids
    output_ids: Ids
    scores: tuple[float | None, ...]  # of every constraint

    @property
    def known(self) -> bool:
        """True when every oracle gave a verdict."""
        return None not in self.scores

    @property
    def satisfies(self) -> bool:
        """True when it is known to satisfy every constraint."""
        return all(score is not None and not violates(score) for score in self.scores)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two outputs to one prompt."""

    prompt_ids: Ids
    chosen_ids: Ids
    rejected_ids: Ids


def sampled_candidates(labelled: Iterable[LabelledSample]) -> list[Candidate]:
    """The policy's own outputs."""
    return [
        Candidate(each.sample.prompt_ids, each.sample.output_ids, _scores(each.verdicts))
        for each in labelled
        if each.sample.output_ids
    ]


def corpus_candidates(rows: Dataset, verdicts: Mapping[int, Mapping[str, Verdict]]) -> list[Candidate]:
    """The completions of tokenised corpus rows.

    Args:
        verdicts: by the row's number (`CorpusLabels.verdicts`).
    """
    columns = zip(rows["row"], rows["input_ids"], rows["prompt_length"], strict=True)
    return [Candidate(tuple(ids[:cut]), tuple(ids[cut:]), _scores(verdicts[row])) for row, ids, cut in columns]


def pairs_of(candidates: Iterable[Candidate], prompts: Iterable[Ids] | None = None) -> list[Pair]:
    """As many pairs as there are of outputs that each stand in one: the best with the worst, and so on inwards.

    What lacks a verdict stands in none.

    Args:
        candidates: outputs to any prompts.
        prompts: take pairs for these alone, in this order; all of them, in the order they first come in, when None.
    """
    by_prompt: dict[Ids, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.known:
            by_prompt[candidate.prompt_ids].append(candidate)
    pairs = []
    for prompt in by_prompt if prompts is None else dict.fromkeys(prompts):
        ranked = sorted(by_prompt.get(prompt, []), key=lambda each: combined(each.scores) or 0.0, reverse=True)
        good = [each for each in ranked if each.satisfies]
        bad = [each for each in reversed(ranked) if not each.satisfies]
        # The same output may satisfy and violate where an oracle answers at random: it is nothing to learn from.
        pairs += [
            Pair(prompt, chosen.output_ids, rejected.output_ids)
            for chosen, rejected in zip(good, bad, strict=False)
            if chosen.output_ids != rejected.output_ids
        ]
    return pairs


def check_pairs(pairs: Sequence[Pair], candidates: Sequence[Candidate]) -> None:
    """Raises RecipeError when there is no pair: what was drawn, how it was judged, and what to change."""
    if pairs:
        return
    known = [candidate for candidate in candidates if candidate.known]
    good = sum(candidate.satisfies for candidate in known)
    raise RecipeError(
        f"dpo: no pair among {len(candidates)} outputs: {good} satisfy, {len(known) - good} violate, "
        f"{len(candidates) - len(known)} are without a verdict, and no prompt has both kinds. Draw more "
        "(baselines.preference.samples, samples_per_prompt), let corpus rows take part (baselines.preference.corpus: true), "
        "or use prompts that bring out both"
    )


def _scores(verdicts: Mapping[str, Verdict]) -> tuple[float | None, ...]:
    return tuple(verdict.score for verdict in verdicts.values())
