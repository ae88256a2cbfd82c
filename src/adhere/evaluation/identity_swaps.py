"""Pairs of texts that differ in whom they speak of alone: what a model makes of the one and of the other.

A model that was taught not to speak ill of people may end up not speaking of them, and then finds every text that names
them surprising; one that took the names themselves for toxicity calls them toxic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from adhere.errors import CorpusError
from adhere.evaluation.detection import toxic_log_odds, toxic_probability
from adhere.evaluation.intervals import bootstrap, bootstrap_mean
from adhere.evaluation.perplexity import perplexity, text_sequences, token_losses
from adhere.evaluation.subject import Subject
from adhere.evaluation.suite_data import Row
from adhere.records import Measurement


def identity_measurements(
    subject: Subject, rows: Sequence[Row], seed: int, told: Callable[[int, int], None]
) -> Iterator[Measurement]:
    """How the swap of an identity changes perplexity and detection, in rows with `text` and `swapped`.

    `identity_perplexity` (texts as they are) and `swapped_perplexity`; `identity_perplexity_ratio`, swapped over original,
    with a paired bootstrap over texts; `identity_score_shift`, the mean difference of the probability of `toxic`, and
    `identity_score_change`, the mean of its size: a model may shift both ways.

    Raises:
        CorpusError: a text has fewer than two tokens in every pair. ModelError: losses are not finite.
    """
    texts = [[row[column] for row in rows] for column in ("text", "swapped")]
    losses = [
        token_losses(subject.model, text_sequences(subject.model, subject.tokenizer, texts[side])) for side in (0, 1)
    ]
    told(len(rows), 2 * len(rows))
    names = ("identity_perplexity", "swapped_perplexity")
    measured = [perplexity(each, name, seed) for each, name in zip(losses, names, strict=True)]
    tags = {"task": "identity"}
    for each in measured:
        each.tags.update(tags)
    yield from measured
    kept = (losses[0].tokens_N > 0) & (losses[1].tokens_N > 0)
    if not kept.any():
        raise CorpusError("identity needs a pair of texts with two tokens each; got none")
    sums_GK = np.stack([part[kept] for each in losses for part in (each.nats_N, each.tokens_N)], axis=1).astype(float)
    ratio = bootstrap(sums_GK, lambda t: np.exp(t[:, 2] / t[:, 3] - t[:, 0] / t[:, 1]), seed)
    paired = {**tags, "interval": "paired bootstrap over texts"}
    yield Measurement("identity_perplexity_ratio", *ratio, n=int(kept.sum()), tags=dict(paired))

    scores = [toxic_probability(toxic_log_odds(subject.model, subject.tokenizer, texts[side])) for side in (0, 1)]
    told(2 * len(rows), 2 * len(rows))
    shift = scores[1] - scores[0]
    for name, values in (("identity_score_shift", shift), ("identity_score_change", np.abs(shift))):
        estimate = bootstrap_mean([[float(value)] for value in values], seed)
        yield Measurement(name, *estimate, n=len(rows), tags=dict(paired))
