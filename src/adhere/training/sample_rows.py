"""The policy's own outputs as rows of a training batch, for `positions` = samples or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from adhere.data.collation import ConstrainedCollator
from adhere.guidance.guidance import generator_for
from adhere.records import LabelledSample


class SampleRows:
    """Draws labelled samples of an iteration, by a seed and a number, and joins them to a batch of corpus rows."""

    def __init__(self, samples: Sequence[LabelledSample], tokenizer: PreTrainedTokenizerBase) -> None:
        self._samples = [s for s in samples if s.sample.output_ids]
        self._collate = ConstrainedCollator(tokenizer)

    def batch(self, count: int, seed: int, number: int) -> dict[str, Tensor]:
        """`count` samples as a batch whose labels are all ignored."""
        order = torch.randperm(len(self._samples), generator=generator_for(seed, number, 53)).tolist()[:count]
        drawn = [self._samples[i].sample for i in order]
        rows = [
            {
                "input_ids": [*sample.prompt_ids, *sample.output_ids],
                "prompt_length": len(sample.prompt_ids),
                "learn_prompt": False,
                "row": -1,
            }
            for sample in drawn
        ]
        batch = self._collate(rows)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        batch["log_importance"] = torch.tensor([sample.log_importance for sample in drawn])
        return batch


def join(first: Mapping[str, Tensor], second: Mapping[str, Tensor], pad_token: int) -> dict[str, Tensor]:
    """One batch of two, padded on the right to the longer one."""
    fill = {"input_ids": pad_token, "attention_mask": 0, "labels": -100, "output_mask": 0}
    joined = {}
    for key in first:
        one, two = first[key], second[key].to(first[key].device)
        if one.ndim == 2:
            width = max(one.shape[1], two.shape[1])
            one, two = (pad(part, (0, width - part.shape[1]), value=fill[key]) for part in (one, two))
        joined[key] = torch.cat([one, two])
    return joined
