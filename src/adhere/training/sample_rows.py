"""The policy's own outputs as rows of a training batch, for `positions` = samples or both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad
from transformers import PreTrainedTokenizerBase

from adhere.data.collation import IGNORED, ConstrainedCollator
from adhere.functional.prefixes import log_mean_weight
from adhere.functional.target import log_tilt
from adhere.guidance.constraint import Constraint
from adhere.guidance.guidance import Guidance, generator_for
from adhere.guidance.labels import violations
from adhere.models.frozen import FrozenModel, frozen_pass
from adhere.records import LabelledSample, Sample
from adhere.training.domains import Domains


class SampleRows:
    """Draws labelled samples of an iteration, by a seed and a number, and joins them to a batch of corpus rows.

    Args:
        samples: of the iteration, with their verdicts.
        constraints: of the run, in its order.
        domains: which constraints count at a sample: those of the domain of its prompt; all everywhere without it.
    """

    def __init__(
        self,
        samples: Sequence[LabelledSample],
        constraints: Sequence[Constraint],
        tokenizer: PreTrainedTokenizerBase,
        domains: Domains | None = None,
    ) -> None:
        self._constraints, self._domains = constraints, domains
        self._samples = [s for s in samples if s.sample.output_ids]
        self._collate = ConstrainedCollator(tokenizer)

    def batch(self, places: Iterable[int], seed: int, number: int) -> dict[str, Tensor]:
        """The samples at these places of a seeded order, as a batch whose labels are all ignored; {} where there are none.

        Places below 0 or beyond the last sample are left out.
        """
        shuffled = torch.randperm(len(self._samples), generator=generator_for(seed, number, 53)).tolist()
        order = [shuffled[place] for place in places if 0 <= place < len(shuffled)]
        if not order:
            return {}
        drawn = [self._samples[i].sample for i in order]
        batch = self._collated(drawn)
        batch["violates_at"], batch["score"] = violations([self._samples[i].verdicts for i in order], self._constraints)
        batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        batch["log_importance"] = torch.tensor([sample.log_importance for sample in drawn])
        if self._domains is not None:
            batch["domain"] = self._domains.numbers([sample.domain for sample in drawn])
        return batch

    @torch.no_grad()
    def log_means(self, guidance: Guidance, reference: FrozenModel, batch_size: int = 32) -> dict[str, Tensor]:
        """By constraint, the log of the mean weight of a sampled prefix over all samples (`prefixes.log_mean_weight`)."""
        samples = sorted((item.sample for item in self._samples), key=lambda s: len(s.prompt_ids) + len(s.output_ids))
        log_weights: dict[str, list[Tensor]] = {constraint.name: [] for constraint in self._constraints}
        for start in range(0, len(samples), batch_size):
            part = samples[start : start + batch_size]
            with reference.lent() as model:
                batch = {key: value.to(model.device) for key, value in self._collated(part).items()}
            tokens_BT, mask_BT = batch["input_ids"], batch["attention_mask"]
            output_BT = pad(batch["output_mask"][:, 1:].bool(), (0, 1))
            log_importance_B1 = torch.tensor([[sample.log_importance] for sample in part], device=tokens_BT.device)
            features_BTD = None
            if not guidance.reads_tokens:
                features_BTD, _ = frozen_pass(reference, tokens_BT, mask_BT, True, logits=False)
            for constraint in self._constraints:
                nado = guidance.nados[constraint.name]
                features = tokens_BT if nado.reads_tokens or features_BTD is None else features_BTD
                value_BT = nado(features, mask_BT).value_BT
                first_B1 = output_BT.int().argmax(1, keepdim=True)
                satisfaction_B = value_BT.gather(1, first_B1).squeeze(1).sigmoid()
                log_w_BT = log_tilt(logsigmoid(value_BT), satisfaction_B, constraint.tilt_target)
                acts_B1 = torch.tensor([[self._acts(sample, constraint)] for sample in part], device=tokens_BT.device)
                log_weights[constraint.name].append((log_w_BT + log_importance_B1)[output_BT & acts_B1])
        if not samples:
            return {}
        joined = {name: torch.cat(parts)[None] for name, parts in log_weights.items()}
        return {name: log_mean_weight(one, torch.ones_like(one, dtype=torch.bool)) for name, one in joined.items()}

    def _acts(self, sample: Sample, constraint: Constraint) -> bool:
        return self._domains is None or self._domains.acts(sample.domain, constraint.name)

    def _collated(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        rows = [
            {
                "input_ids": [*sample.prompt_ids, *sample.output_ids],
                "prompt_length": len(sample.prompt_ids),
                "learn_prompt": False,
                "row": -1,
            }
            for sample in samples
        ]
        return self._collate(rows)


def join(first: Mapping[str, Tensor], second: Mapping[str, Tensor], pad_token: int) -> dict[str, Tensor]:
    """One batch of two, padded on the right to the longer one."""
    fill = {
        "input_ids": pad_token,
        "attention_mask": 0,
        "labels": -100,
        "output_mask": 0,
        "violates_at": 0,
        "score": 0,
    }
    joined = {}
    for key in first:
        one, two = first[key], second[key].to(first[key].device)
        if one.ndim == 2:
            width = max(one.shape[1], two.shape[1])
            one, two = (pad(part, (0, width - part.shape[1]), value=fill[key]) for part in (one, two))
        joined[key] = torch.cat([one, two])
    return joined
