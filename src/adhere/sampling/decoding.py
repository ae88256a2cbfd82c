"""Decoding without carrying along what has ended: rows that are finished leave the batch.

transformers' `generate` goes on over all rows until the last one has ended. Here it is stopped when a share of them has,
and goes on with the others from the same cache: outputs whose lengths differ cost what they are long.

    B batch · T time
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from adhere.sampling.choice import InverseCdfChoice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALSO_READ = "adhere_read"
"""Attribute of a cache: what else a model has made of the rows; its method `keep` keeps some of them."""

LEAVE_TOGETHER = 4
"""Rows leave when one in so many has ended: each time costs a copy of the cache and the beginning of a `generate`."""


def decode(
    model: PreTrainedModel,
    prompt_BT: Tensor,
    mask_BT: Tensor,
    settings: GenerationConfig,
    choice: InverseCdfChoice,
    *,
    leave: bool = True,
) -> list[list[int]]:
    """Decode every row to its end, or to `settings.max_new_tokens`.

    Args:
        model: in eval mode.
        prompt_BT: token ids, padded on the left.
        mask_BT: 1 on real tokens.
        settings: of greedy decoding, with the tokens that end an output.
        choice: makes the only token possible that is to be chosen.
        leave: whether finished rows leave; not where something else keeps a state for every row (a guide).

    Returns:
        for each row, the tokens after its prompt; after the one that ends it anything may stand.
    """
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
    ends, limit, width = list(settings.eos_token_id or ()), int(settings.max_new_tokens or 0), prompt_BT.shape[1]
    outputs: list[list[int]] = [[] for _ in prompt_BT]
    rows = list(range(len(prompt_BT)))
    tokens_BT, cache, leaving = prompt_BT, None, leave
    while rows:
        part = copy.copy(settings)
        part.max_new_tokens, part.return_dict_in_generate = limit - (tokens_BT.shape[1] - width), True
        told = generate(
            input_ids=tokens_BT,
            attention_mask=mask_BT,
            generation_config=part,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([_EnoughEnded(ends)] if leaving and len(rows) > 1 else []),
            **({} if cache is None else {"past_key_values": cache}),
        )
        mask_BT = torch.nn.functional.pad(mask_BT, (0, told.sequences.shape[1] - mask_BT.shape[1]), value=1)
        tokens_BT = told.sequences
        written = tokens_BT[:, width:].tolist()
        for row, output in zip(rows, written, strict=True):
            outputs[row] = output
        full = len(written[0]) >= limit
        kept = [] if full else [n for n, output in enumerate(written) if not any(token in ends for token in output)]
        if not kept:
            break
        cache, leaving = told.past_key_values, leaving and _can_be_cut(told.past_key_values)
        if not _can_be_cut(cache):
            cache = None  # read again: what another kind of cache keeps of the rows is not ours to cut
        kept_B = torch.tensor(kept, device=tokens_BT.device)
        if cache is not None:
            cache.batch_select_indices(kept_B)
            if (also := getattr(cache, ALSO_READ, None)) is not None:
                also.keep(kept_B)
        choice.keep(kept_B)
        rows, tokens_BT, mask_BT = [rows[n] for n in kept], tokens_BT[kept_B], mask_BT[kept_B]
    return outputs


class _EnoughEnded(StoppingCriteria):
    """Stops all rows once enough of them have ended."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = list(ends)
        self._ended_B: Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        ended_B = torch.isin(input_ids[:, -1], torch.tensor(self._ends, device=input_ids.device))
        self._ended_B = ended_B if self._ended_B is None else self._ended_B | ended_B
        enough: Tensor = self._ended_B.sum() * LEAVE_TOGETHER >= len(ended_B)
        return enough.expand(len(ended_B))  # type: ignore[return-value]


def _can_be_cut(cache: object) -> bool:
    """Whether rows can be taken out of this cache: keys and values of attention alone."""
    return isinstance(cache, DynamicCache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )
