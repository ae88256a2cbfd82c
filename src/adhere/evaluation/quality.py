"""Signs of a model that satisfies its constraint by having little to say: repetition, loops, short and empty outputs.

Words are what white space separates, as written. No single number here is enough: a model that always writes `OK` has
no loops, one that writes nothing has perfect distinct-n on what is left. Read them together, and against another
model on the same prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from adhere.evaluation.intervals import Floats, bootstrap_mean, jackknife, rate
from adhere.records import LabelledSample, Measurement

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


def outputs_by_prompt(completions: Sequence[LabelledSample]) -> list[list[str]]:
    """The outputs of every prompt, prompts in order of their index."""
    grouped: dict[int, list[str]] = {}
    for labelled in sorted(completions, key=lambda item: (item.sample.prompt_index, item.sample.replicate)):
        grouped.setdefault(labelled.sample.prompt_index, []).append(labelled.sample.output)
    return list(grouped.values())


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
    of_all, left_out_G, total = distinct_without_each(outputs, n)
    value, low, high = jackknife(of_all, left_out_G)
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (low, high))
    tags = {"interval": "jackknife over prompts", "ngrams": str(total)}
    return Measurement(f"distinct_{n}", value, low, high, n=count, tags=tags)


def distinct_without_each(outputs: Outputs, n: int) -> tuple[float, Floats, int]:
    """distinct-n of all outputs; what it would be without each prompt, shape (G,); the number of n-grams."""
    grams_G = [Counter(chain.from_iterable(_ngrams(output.split(), n) for output in group)) for group in outputs]
    total_G = np.array([grams.total() for grams in grams_G], dtype=np.float64)
    prompts_with = Counter(chain.from_iterable(grams_G))
    only_here_G = np.array([sum(prompts_with[gram] == 1 for gram in grams) for grams in grams_G], dtype=np.float64)
    different, total = len(prompts_with), float(total_G.sum())
    # Without prompt g, only the n-grams that no other prompt has are gone.
    left_out_G = (different - only_here_G) / np.maximum(total - total_G, 1)
    return different / max(total, 1), left_out_G, int(total)


def of_output(name: str, output: str) -> float:
    """What one output adds to `repetition`, `looping`, `mean_length` or `empty_rate`. Raises KeyError for another name."""
    return float(_OF_OUTPUT[name](output.split()))


def repetition(outputs: Outputs, seed: int = 0) -> Measurement:
    """Mean share of an output's word 4-grams that it has written before (seq-rep-4 of Welleck et al. 2020).

    An output of fewer than five words cannot repeat one and counts 0.
    """
    return _mean("repetition", outputs, seed)


def _repeated(words: Sequence[str]) -> float:
    grams = _ngrams(words, REPEATED)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def looping(outputs: Outputs, seed: int = 0) -> Measurement:
    """Share of outputs in which a phrase stands 3 times or more in a row, 6 words or more in all.

    `ha ha ha` is no loop; `I know. I know. I know.` is one.
    """
    return _rate("looping", outputs, seed)


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
    return _mean("mean_length", outputs, seed, "words")


def empty_rate(outputs: Outputs, seed: int = 0) -> Measurement:
    """Share of outputs without a word."""
    return _rate("empty_rate", outputs, seed)


_OF_OUTPUT: dict[str, Callable[[Sequence[str]], float]] = {
    "repetition": _repeated,
    "looping": _loops,
    "mean_length": len,
    "empty_rate": lambda words: not words,
}


def _mean(name: str, outputs: Outputs, seed: int, unit: str = "") -> Measurement:
    count, tags = _count(outputs), {"interval": "bootstrap over prompts"}
    values = [[of_output(name, output) for output in group] for group in outputs]
    return Measurement(name, *bootstrap_mean(values, seed), n=count, unit=unit, tags=tags)


def _rate(name: str, outputs: Outputs, seed: int) -> Measurement:
    count = _count(outputs)
    estimate, method = rate([[bool(of_output(name, output)) for output in group] for group in outputs], seed)
    return Measurement(name, *estimate, n=count, tags={"interval": method})


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _count(outputs: Outputs) -> int:
    count = sum(map(len, outputs))
    if count == 0:
        raise ValueError("quality needs at least one output; got none")
    return count
