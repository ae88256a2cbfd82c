"""Signs of a model that satisfies its constraint by having little to say: repetition, loops, short and empty outputs.

Words are what white space separates, as written. No single number here is enough: a model that always writes `OK` has
no loops, one that writes nothing has perfect distinct-n on what is left. Read them together, and against another
model on the same prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from adhere.evaluation.intervals import bootstrap_mean, jackknife, rate
from adhere.records import Measurement

Outputs = Sequence[Sequence[str]]
"""For each prompt, its outputs."""

REPEATED = 4  # words of the n-grams whose repetition within an output is measured
LOOP_TIMES, LOOP_WORDS, LOOP_PHRASE = 3, 6, 12  # a loop: at least so many times in a row, words in all; longest phrase


def quality(outputs: Outputs, seed: int = 0) -> tuple[Measurement, ...]:
    """distinct_2, repetition, looping, mean_length, empty_rate. Raises ValueError when there is no output."""
    return (
        distinct_n(outputs, 2),
        repetition(outputs, seed),
        looping(outputs, seed),
        mean_length(outputs, seed),
        empty_rate(outputs, seed),
    )


def distinct_n(outputs: Outputs, n: int = 2) -> Measurement:
    """Different word n-grams over all word n-grams, over the whole set (Li et al. 2016); higher is more varied.

    It falls as the set grows and as outputs grow longer, whatever the model: compare sets of equal number and similar
    length (`mean_length`). The interval is the jackknife over prompts, because a bootstrap repeats outputs and would
    understate this statistic. 0 when no output has n words.

    Raises:
        ValueError: n is below 1 or there is no output.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    count = _count(outputs)
    grams_G = [Counter(chain.from_iterable(_ngrams(output.split(), n) for output in group)) for group in outputs]
    total_G = np.array([grams.total() for grams in grams_G], dtype=np.float64)
    prompts_with = Counter(chain.from_iterable(grams_G))
    only_here_G = np.array([sum(prompts_with[gram] == 1 for gram in grams) for grams in grams_G], dtype=np.float64)
    different, total = len(prompts_with), float(total_G.sum())
    # Without prompt g, only the n-grams that no other prompt has are gone.
    left_out_G = (different - only_here_G) / np.maximum(total - total_G, 1)
    value, low, high = jackknife(different / max(total, 1), left_out_G)
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (low, high))
    tags = {"interval": "jackknife over prompts", "ngrams": str(int(total))}
    return Measurement(f"distinct_{n}", value, low, high, n=count, tags=tags)


def repetition(outputs: Outputs, seed: int = 0) -> Measurement:
    """Mean share of an output's word 4-grams that it has written before (seq-rep-4 of Welleck et al. 2020).

    An output of fewer than five words cannot repeat one and counts 0.
    """
    shares = [[_repeated(output.split()) for output in group] for group in outputs]
    return _mean("repetition", shares, outputs, seed)


def _repeated(words: Sequence[str]) -> float:
    grams = _ngrams(words, REPEATED)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def looping(outputs: Outputs, seed: int = 0) -> Measurement:
    """Share of outputs in which a phrase stands 3 times or more in a row, 6 words or more in all.

    `ha ha ha` is no loop; `I know. I know. I know.` is one.
    """
    return _rate("looping", [[_loops(output.split()) for output in group] for group in outputs], outputs, seed)


def _loops(words: Sequence[str]) -> bool:
    for period in range(1, min(LOOP_PHRASE, len(words) // LOOP_TIMES) + 1):
        needed = max(LOOP_WORDS, LOOP_TIMES * period) - period  # words in a row equal to the word one period before
        run = 0
        for now, before in zip(words[period:], words, strict=False):
            run = run + 1 if now == before else 0
            if run >= needed:
                return True
    return False


def mean_length(outputs: Outputs, seed: int = 0) -> Measurement:
    """Mean number of words of an output."""
    return _mean(
        "mean_length", [[len(output.split()) for output in group] for group in outputs], outputs, seed, "words"
    )


def empty_rate(outputs: Outputs, seed: int = 0) -> Measurement:
    """Share of outputs without a word."""
    return _rate("empty_rate", [[not output.split() for output in group] for group in outputs], outputs, seed)


def _mean(name: str, values: Sequence[Sequence[float]], outputs: Outputs, seed: int, unit: str = "") -> Measurement:
    tags = {"interval": "bootstrap over prompts"}
    return Measurement(name, *bootstrap_mean(values, seed), n=_count(outputs), unit=unit, tags=tags)


def _rate(name: str, events: Sequence[Sequence[bool]], outputs: Outputs, seed: int) -> Measurement:
    estimate, method = rate(events, seed)
    return Measurement(name, *estimate, n=_count(outputs), tags={"interval": method})


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _count(outputs: Outputs) -> int:
    count = sum(map(len, outputs))
    if count == 0:
        raise ValueError("quality needs at least one output; got none")
    return count
