"""Reinforcement learning with the oracle as the reward: RLOO and GRPO, by TRL's trainers.

RLOO (Ahmadian et al. 2024) subtracts β times the KL to the model it begins with from an output's reward, and takes the
other outputs of the prompt as the baseline; GRPO (Shao et al. 2024) scales by their spread and adds the KL to the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from adhere.baselines.config import ReinforcementConfig
from adhere.baselines.reward import OracleReward
from adhere.baselines.untold import untold
from adhere.data.tokenization import encode_prompts
from adhere.errors import ModelError
from adhere.models.policy import Policy
from adhere.records import Prompt
from adhere.sampling.sampler import SamplingConfig
from adhere.training.last_step import EndsAtLastStep

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback


class _Rloo(EndsAtLastStep, RLOOTrainer):
    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None in a run folder: the report says what the run is."""


class _Grpo(EndsAtLastStep, GRPOTrainer):
    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None in a run folder: the report says what the run is."""


def reinforcement_arguments(
    method: str, settings: Mapping[str, Any], config: ReinforcementConfig, sampling: SamplingConfig
) -> RLOOConfig | GRPOConfig:
    """TRL's arguments.

    Args:
        method: rloo or grpo.
        settings: of `TrainingArguments`, the same for every method; what differs here replaces them.
        config: of the method.
        sampling: how outputs are drawn.

    Raises:
        ValueError, TypeError: TRL refuses them.
    """
    outputs = config.prompts_per_step * config.generations
    wanted = int(settings["per_device_train_batch_size"])
    at_once = max(size for size in range(1, min(wanted, outputs) + 1) if outputs % size == 0)
    kind = RLOOConfig if method == "rloo" else GRPOConfig
    return kind(
        **{
            **settings,
            "learning_rate": config.learning_rate,
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": outputs // at_once,
            "num_generations": config.generations,
            "max_completion_length": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "beta": config.beta,
        }
    )


def reinforcement_trainer(
    method: str,
    policy: Policy,
    arguments: Any,
    prompts: Sequence[Prompt],
    config: ReinforcementConfig,
    reward: OracleReward,
    callbacks: list[TrainerCallback],
) -> EndsAtLastStep:
    """TRL's trainer, ready to `train`.

    Args:
        policy: fine-tuned, as it was loaded from a folder: that is what the KL holds it near.
        arguments: of `reinforcement_arguments`, for the same method.
        prompts: what outputs are drawn from.

    Raises:
        ModelError: the tokenizer writes something after a prompt, so that TRL would sample from another one.
    """
    texts = as_tokenised_by_trl(policy.tokenizer, [prompt.text for prompt in prompts])
    laps = math.ceil(config.prompts_per_step / len(texts))  # TRL drops what does not fill a step
    rows = Dataset.from_dict({"prompt": texts * laps, "asked": [prompt.text for prompt in prompts] * laps})
    kind = _Rloo if method == "rloo" else _Grpo
    with untold():
        return kind(
            model=policy.model,
            args=arguments,
            reward_funcs=reward,
            train_dataset=rows,
            processing_class=policy.tokenizer,
            callbacks=callbacks,
        )


def as_tokenised_by_trl(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """Texts which TRL, that calls the tokenizer as it is, turns into the tokens that every other method samples from.

    They differ for an empty prompt, and for a rendered chat that begins with BOS already.

    Raises:
        ModelError: there is no such text.
    """
    wanted = encode_prompts(tokenizer, texts)
    given = list(texts)
    for place, (ids, found) in enumerate(zip(wanted, tokenizer(given)["input_ids"], strict=True)):
        if list(found) == ids:
            continue
        bos = [tokenizer.bos_token_id]
        for candidate in (ids, ids[1:] if ids[:1] == bos else ids):
            given[place] = str(tokenizer.decode(candidate, clean_up_tokenization_spaces=False))
            if list(tokenizer(given[place])["input_ids"]) == ids:
                break
        else:
            raise ModelError(
                f"the tokenizer {tokenizer.name_or_path!r} writes more than a prompt's own tokens for {texts[place][:40]!r}, "
                "and TRL would sample from that: methods rloo and grpo cannot be used with it"
            )
    return given
