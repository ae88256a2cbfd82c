"""Perplexity of texts and of corpus rows: exp of the mean negative log-likelihood per scored token.

Axes: `N` sequences, `B` rows of a batch, `T` time, `V` vocabulary. The number does not depend on the batch: rows are
padded on the right, padding is neither attended to nor scored, and log-softmax is taken in float32 whatever the
model's type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from adhere.errors import CorpusError, ModelError
from adhere.evaluation.intervals import bootstrap, ratio_of_totals
from adhere.records import Measurement
from adhere.sampling.guided_model import GuidedForCausalLM

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOGITS = 2**26  # logits of one forward pass, unless one row alone has more: 128 MB in bfloat16, 256 MB in float32
_FLOAT32_LOGITS = 2**24  # of these, turned into float32 at a time: 64 MB


@dataclass(frozen=True, slots=True)
class ScoredSequence:
    """Token ids, of which those from `start` on are scored; `start` ≥ 1, since the first has nothing before it."""

    input_ids: Sequence[int]
    start: int = 1


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """For each sequence, its summed negative log-likelihood in nats and how many tokens that is the sum of."""

    nats_N: NDArray[np.float64]
    tokens_N: NDArray[np.int64]


def text_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 256,
    batch_size: int = 8,
    name: str = "clean_perplexity",
) -> Measurement:
    """Perplexity of whole texts, each cut after `max_length` tokens or at the end of the model's context.

    Tokens are those the tokenizer gives by itself; the first of a text is its context and is not scored, and a text
    of one token or none is left out.

    Raises:
        CorpusError: no text has two tokens.
        ModelError: the model's losses are not finite.
    """
    return perplexity(token_losses(model, text_sequences(model, tokenizer, texts, max_length), batch_size), name)


def text_sequences(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int = 256
) -> list[ScoredSequence]:
    """Whole texts as `text_perplexity` scores them."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
    max_length = min(max_length, context)
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"] if len(texts) else []
    return [ScoredSequence(ids) for ids in encoded]


def example_perplexity(
    model: PreTrainedModel, rows: Dataset, batch_size: int = 8, name: str = "corpus_perplexity"
) -> Measurement:
    """Perplexity of the completions of tokenised corpus rows, end-of-sequence token included, given their prompts.

    Args:
        rows: has the columns `input_ids` and `prompt_length`; give held-out rows only.

    Raises:
        CorpusError: no row has a completion.
        ModelError: the model's losses are not finite.
    """
    return perplexity(token_losses(model, example_sequences(rows), batch_size), name)


def example_sequences(rows: Dataset) -> list[ScoredSequence]:
    """Tokenised corpus rows as `example_perplexity` scores them: from the end of the prompt on."""
    pairs = zip(rows["input_ids"], rows["prompt_length"], strict=True)
    return [ScoredSequence(ids, start=prompt_length) for ids, prompt_length in pairs]


def perplexity(losses: TokenLosses, name: str, seed: int = 0) -> Measurement:
    """exp(Σ nats / Σ tokens) with a bootstrap over sequences; `n` counts those with a scored token.

    The tag `tokens` has the number of scored tokens.

    Raises:
        CorpusError: there is no scored token.
        ModelError: a loss is not finite.
    """
    if losses.tokens_N.sum() == 0:
        raise CorpusError(f"{name} needs at least one sequence with a token to score; got none")
    if not np.isfinite(losses.nats_N).all():
        raise ModelError(
            f"the model's losses are not finite on {int((~np.isfinite(losses.nats_N)).sum())} of {len(losses.nats_N)} "
            "sequences, so it has no perplexity: training diverged (lower the learning rate) or its type overflows"
        )
    kept = losses.tokens_N > 0
    sums_GK = np.stack([losses.nats_N[kept], losses.tokens_N[kept]], axis=1).astype(np.float64)
    estimate = bootstrap(sums_GK, lambda totals_SK: np.exp(ratio_of_totals(totals_SK)), seed)
    tags = {"interval": "bootstrap over texts", "tokens": str(int(losses.tokens_N.sum()))}
    return Measurement(name, *estimate, n=int(kept.sum()), tags=tags)


def token_losses(model: PreTrainedModel, sequences: Sequence[ScoredSequence], batch_size: int = 8) -> TokenLosses:
    """Negative log-likelihood of every sequence under the model; sequences without a scored token get 0 of 0.

    The model is put in evaluation mode and back. At most `batch_size` rows go through it at a time, fewer when their
    logits would take too much memory.

    Raises:
        ValueError: a sequence's `start` is below 1, or batch_size is.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if wrong := next((sequence for sequence in sequences if sequence.start < 1), None):
        raise ValueError(f"a sequence can be scored from its second token on (start ≥ 1), got start = {wrong.start}")
    nats_N = np.zeros(len(sequences), dtype=np.float64)
    tokens_N = np.array([max(0, len(seq.input_ids) - seq.start) for seq in sequences], dtype=np.int64)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for places in _batches(sequences, tokens_N, batch_size, model.config.get_text_config().vocab_size):
                nats_N[places] = _batch_losses(model, [sequences[place] for place in places])
    finally:
        model.train(was_training)
    return TokenLosses(nats_N, tokens_N)


def _batches(
    sequences: Sequence[ScoredSequence], tokens_N: NDArray[np.int64], batch_size: int, vocabulary: int
) -> Iterator[list[int]]:
    """Places of sequences that go together: alike in length, longest first, so that too long a batch fails at once."""
    places = sorted(np.flatnonzero(tokens_N).tolist(), key=lambda place: -len(sequences[place].input_ids))
    while places:
        fitting = _LOGITS // (len(sequences[places[0]].input_ids) * vocabulary)
        rows = max(1, min(batch_size, fitting))
        yield places[:rows]
        places = places[rows:]


def _batch_losses(model: PreTrainedModel, batch: Sequence[ScoredSequence]) -> NDArray[np.float64]:
    ids = [torch.as_tensor(seq.input_ids, dtype=torch.long) for seq in batch]
    lengths_B = torch.tensor([len(row) for row in ids])
    input_ids_BT = pad_sequence(ids, batch_first=True)
    time_T = torch.arange(input_ids_BT.shape[1])
    mask_BT = time_T < lengths_B[:, None]
    # Position t predicts token t + 1, so the scored positions end one before the last token.
    scored_BT = mask_BT[:, 1:] & (time_T[1:] >= torch.tensor([seq.start for seq in batch])[:, None])
    row_P, time_P = scored_BT.nonzero(as_tuple=True)  # P: scored positions of the batch, row by row
    device = model.device
    # To a guided model it matters where the prompt ends, if its target is below 1.
    start_B = torch.tensor([seq.start for seq in batch], device=device)
    guided = {"prompt_length": start_B} if isinstance(model, GuidedForCausalLM) else {}
    logits_BTV = model(
        input_ids=input_ids_BT.to(device), attention_mask=mask_BT.long().to(device), use_cache=False, **guided
    ).logits
    targets_P = input_ids_BT[row_P, time_P + 1].to(device)
    losses_P = torch.empty(len(row_P), dtype=torch.float64)
    step = max(1, _FLOAT32_LOGITS // logits_BTV.shape[-1])
    for first, last in pairwise([*range(0, len(row_P), step), len(row_P)]):
        logits_PV = logits_BTV[row_P[first:last].to(device), time_P[first:last].to(device)].float()
        losses_P[first:last] = cross_entropy(logits_PV, targets_P[first:last], reduction="none").double().cpu()
    return torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row_P, losses_P).numpy()
