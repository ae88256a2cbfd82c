"""How likely a model finds each of a few given answers to a question: Yes or No, A or B.

Axes: `N` questions, `K` answers, `B` rows of a batch, `T` time, `V` vocabulary. Rows are padded on the right, so that any
causal model will do, a guided one included; log-softmax is taken in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from adhere.data.tokenization import encode_prompts
from adhere.errors import ModelError
from adhere.evaluation.intervals import Floats

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOGITS = 2**26  # logits of one forward pass, unless one row alone has more
_BATCH = 16


def answer_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    told: Callable[[int, int], None] | None = None,
) -> Floats:
    """log p(answer | question) for every question and answer, shape (N, K).

    A question longer than the model's context loses its beginning. Answers of one token share one pass.

    Args:
        model: any causal model, or a module that is called like one (`sampling.guided_model`).
        questions: tokenised as prompts are.
        answers: tokenised alone, so write the space before a word: " Yes".
        told: called with (questions done, questions).

    Raises:
        ModelError: an answer has no tokens, two have the same, or a likelihood is not a number.
    """
    answer_ids = [tuple(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"]]
    if not all(answer_ids) or len(set(answer_ids)) < len(answer_ids):
        raise ModelError(f"the tokenizer cannot tell the answers {', '.join(map(repr, answers))} apart")
    context = int(getattr(model.config, "max_position_embeddings", 0) or 1_000_000)
    room = context - max(map(len, answer_ids))
    stems_ids = [ids[-room:] for ids in encode_prompts(tokenizer, list(questions))]
    tails = sorted({ids[:-1] for ids in answer_ids})  # what is read before an answer's last token
    likelihoods_NK = np.zeros((len(questions), len(answers)))
    was_training = model.training
    model.train(False)
    try:
        done = 0
        for places in _batches(stems_ids, model.config.get_text_config().vocab_size):
            for tail in tails:
                rows = [[*stems_ids[place], *tail] for place in places]
                starts = [len(stems_ids[place]) for place in places]
                kept = [column for column, ids in enumerate(answer_ids) if ids[:-1] == tail]
                found = _sums(model, rows, starts, [answer_ids[column] for column in kept])
                likelihoods_NK[np.ix_(places, kept)] = found
            done += len(places)
            if told is not None:
                told(done, len(questions))
    finally:
        model.train(was_training)
    if not np.isfinite(likelihoods_NK).all():
        raise ModelError("the model's likelihoods are not numbers: training diverged, or its dtype overflows")
    return likelihoods_NK


def _batches(rows: Sequence[Sequence[int]], vocabulary: int) -> Iterator[list[int]]:
    """Places of rows that go together: alike in length, longest first."""
    places = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    while places:
        size = max(1, min(_BATCH, _LOGITS // (len(rows[places[0]]) * vocabulary)))
        yield places[:size]
        places = places[size:]


@torch.inference_mode()
def _sums(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], starts: Sequence[int], answers: Sequence[tuple[int, ...]]
) -> Floats:
    """The log-likelihood of each answer after each row's stem, shape (B, K); the row ends before an answer's last token."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    input_ids_BT = pad_sequence(ids, batch_first=True)
    mask_BT = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    device = model.device
    logits_BTV = model(input_ids=input_ids_BT.to(device), attention_mask=mask_BT.to(device), use_cache=False).logits
    sums_BK = np.zeros((len(rows), len(answers)))
    for number, start in enumerate(starts):
        last = len(rows[number])
        log_p_TV = logits_BTV[number, start - 1 : last].float().log_softmax(-1).double().cpu()
        for column, answer in enumerate(answers):
            sums_BK[number, column] = float(log_p_TV[torch.arange(len(answer)), list(answer)].sum())
    return sums_BK
