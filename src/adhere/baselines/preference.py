"""Preference optimisation (DPO, Rafailov et al. 2023) on pairs that the oracle ranked, by TRL's trainer.

The pairs are made once, of outputs of the fine-tuned model that training begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from trl import DPOConfig, DPOTrainer

from adhere.baselines.config import PreferenceConfig
from adhere.baselines.pairs import Pair
from adhere.baselines.untold import untold
from adhere.data.tokenization import pad_id
from adhere.models.policy import Policy
from adhere.training.last_step import EndsAtLastStep

if TYPE_CHECKING:
    from transformers import TrainerCallback


class _Dpo(EndsAtLastStep, DPOTrainer):
    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None in a run folder: the report says what the run is."""


class PairCollator:
    """Pairs as the batch that TRL's loss takes: first all chosen outputs, then all rejected ones, padded on the right."""

    def __init__(self, padding: int) -> None:
        self._padding = padding

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [
            (list(row["ids_of_prompt"]), list(row[side])) for side in ("ids_chosen", "ids_rejected") for row in rows
        ]
        ids = [torch.tensor(prompt + output) for prompt, output in sequences]
        outputs = [torch.tensor([0] * len(prompt) + [1] * len(output)) for prompt, output in sequences]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._padding),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "completion_mask": pad_sequence(outputs, batch_first=True),
        }


def preference_arguments(settings: Mapping[str, Any], config: PreferenceConfig) -> DPOConfig:
    """TRL's arguments.

    Args:
        settings: of `TrainingArguments`, the same for every method; what differs here replaces them. Its batch is one of
            pairs, which have two outputs each.

    Raises:
        ValueError, TypeError: TRL refuses them.
    """
    own = {"learning_rate": config.learning_rate, "beta": config.beta, "max_length": None}
    return DPOConfig(**{**settings, **own})


def preference_trainer(
    policy: Policy, arguments: DPOConfig, pairs: Sequence[Pair], callbacks: list[TrainerCallback]
) -> EndsAtLastStep:
    """TRL's trainer, ready to `train`.

    Args:
        policy: fine-tuned, as it was loaded from a folder: that is what it is held near.
        pairs: at least one.
    """
    # TRL tokenises texts itself and ends each in EOS, also an output that was cut. The pairs' own tokens go past it in
    # columns of ours, which our collator takes.
    rows = Dataset.from_dict(
        {
            "prompt": ["a"] * len(pairs),
            "chosen": [" a"] * len(pairs),
            "rejected": [" a"] * len(pairs),
            "ids_of_prompt": [list(pair.prompt_ids) for pair in pairs],
            "ids_chosen": [list(pair.chosen_ids) for pair in pairs],
            "ids_rejected": [list(pair.rejected_ids) for pair in pairs],
        }
    )
    with untold():
        return _Dpo(
            model=policy.model,
            args=arguments,
            data_collator=PairCollator(pad_id(policy.tokenizer)),
            train_dataset=rows,
            processing_class=policy.tokenizer,
            callbacks=callbacks,
        )
