"""RLOO and GRPO by TRL's trainers, with our oracles, our prompts and our stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

pytest.importorskip("trl")

from adhere.baselines.config import ReinforcementConfig
from adhere.baselines.reinforcement import as_tokenised_by_trl, reinforcement_arguments, reinforcement_trainer
from adhere.baselines.reward import OracleReward
from adhere.baselines.untold import untold
from adhere.costs import Ledger
from adhere.data.tokenization import encode_prompts
from adhere.errors import ModelError
from adhere.guidance.constraint import Constraint
from adhere.models.policy import ModelConfig, load_policy
from adhere.oracles.callable import CallableOracle
from adhere.oracles.rules import RegexOracle
from adhere.records import Prompt
from adhere.sampling.sampler import SamplingConfig

SAMPLING = SamplingConfig(max_new_tokens=5, temperature=0.9, top_p=0.8, top_k=7)
CONFIG = ReinforcementConfig(prompts_per_step=3, generations=4, beta=0.02, learning_rate=1e-2)


def _settings(folder: Path, batch: int = 5) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": batch, "learning_rate": 1.0, "use_cpu": True,
        "bf16": False, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False, "logging_steps": 1,
        "activation_checkpointing": False, "dataloader_pin_memory": False, "save_strategy": "no", "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_arguments_say_what_the_recipe_says(method: str, tmp_path: Path) -> None:
    built = reinforcement_arguments(method, _settings(tmp_path), CONFIG, SAMPLING)
    assert (built.num_generations, built.beta, built.learning_rate, built.max_steps) == (4, 0.02, 1e-2, 2)
    assert (built.temperature, built.top_p, built.top_k, built.max_completion_length) == (0.9, 0.8, 7, 5)
    # 12 outputs a step, in parts that divide them and are at most the batch of the recipe.
    assert (built.per_device_train_batch_size, built.gradient_accumulation_steps) == (4, 3)
    assert built.generation_batch_size == 12
    assert not (built.use_vllm or built.gradient_checkpointing or built.bf16)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_the_rewarded_letter_becomes_likelier(method: str, tiny_policy_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelConfig(path=str(tiny_policy_folder)))
    constraint = Constraint(RegexOracle("e", mode="required"), name="an e")
    reward = OracleReward([constraint], policy.tokenizer, "product", Ledger(tmp_path), method)
    sampling = SamplingConfig(max_new_tokens=4)
    arguments = reinforcement_arguments(method, {**_settings(tmp_path, 32), "max_steps": 12},
                                        ReinforcementConfig(prompts_per_step=4, generations=8, learning_rate=3e-2),
                                        sampling)  # fmt: skip
    prompts = [Prompt(0, "the cat"), Prompt(1, "a dog")]
    trainer = reinforcement_trainer(method, policy, arguments, prompts, CONFIG, reward, [])
    trainer.train()
    shares = [line["satisfaction/an e"] for line in trainer.state.log_history if "satisfaction/an e" in line]
    assert len(shares) == 12
    assert sum(shares[-3:]) > sum(shares[:3]) + 0.5
    costs = Ledger(tmp_path).total()
    assert costs.generated_outputs == costs.oracle_calls == 12 * 32
    assert 12 * 32 <= costs.generated_tokens <= 12 * 32 * 4
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_outputs_without_a_verdict_move_nothing(method: str, tiny_policy_folder: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelConfig(path=str(tiny_policy_folder)))
    silent = Constraint(CallableOracle(_silent), name="silent")
    reward = OracleReward([silent], policy.tokenizer, "product", Ledger(tmp_path), method)
    arguments = reinforcement_arguments(method, _settings(tmp_path), CONFIG, SAMPLING)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    reinforcement_trainer(method, policy, arguments, [Prompt(0, "a")], CONFIG, reward, []).train()
    after = policy.model.state_dict()
    if method == "rloo":  # GRPO's loss has the KL besides, which at first pulls nowhere
        assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    else:
        assert all(torch.allclose(weight, after[name], atol=1e-6) for name, weight in before.items())
    assert Ledger(tmp_path).total().no_verdict == 2 * 12


def _silent(outputs: list[str]) -> list[float | None]:
    return [None] * len(outputs)


def test_trl_samples_from_the_tokens_that_every_method_samples_from(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["the cat", "", "a"]
    told = as_tokenised_by_trl(tiny_tokenizer, texts)
    assert tiny_tokenizer(told)["input_ids"] == encode_prompts(tiny_tokenizer, texts)
    assert told[0] == "the cat"


def test_a_prompt_that_has_its_bos_already_gets_no_second(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    _adds(tiny_tokenizer, "<eos> $0")
    tiny_tokenizer.bos_token = "<eos>"
    texts = ["<eos>the cat", "a", ""]
    assert tiny_tokenizer(texts)["input_ids"] != encode_prompts(tiny_tokenizer, texts)
    told = as_tokenised_by_trl(tiny_tokenizer, texts)
    assert tiny_tokenizer(told)["input_ids"] == encode_prompts(tiny_tokenizer, texts)


def test_a_tokenizer_that_ends_every_text_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    _adds(tiny_tokenizer, "$0 <eos>")
    with pytest.raises(
        ModelError, match=r"writes more than a prompt's own tokens for 'a'.*rloo and grpo cannot be used"
    ):
        as_tokenised_by_trl(tiny_tokenizer, ["a"])


def _adds(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    from tokenizers import processors

    processor = processors.TemplateProcessing(single=template, special_tokens=[("<eos>", 31)])
    tokenizer.backend_tokenizer.post_processor = processor


def test_no_word_of_a_trainer_is_sent_to_anyone(
    tiny_policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry

    sent: list[Any] = []
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: sent.append("a thread"))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.delenv("CI", raising=False)
    policy = load_policy(ModelConfig(path=str(tiny_policy_folder)))
    reward = OracleReward([Constraint(RegexOracle("x"))], policy.tokenizer, "product", Ledger(tmp_path), "rloo")
    arguments = reinforcement_arguments("rloo", _settings(tmp_path), CONFIG, SAMPLING)
    reinforcement_trainer("rloo", policy, arguments, [Prompt(0, "a")], CONFIG, reward, [])
    assert sent == []
    with untold():
        assert constants.HF_HUB_DISABLE_TELEMETRY
    assert not constants.HF_HUB_DISABLE_TELEMETRY


def test_an_adapter_is_held_near_what_it_was(
    tiny_model: LlamaForCausalLM, tiny_policy_folder: Path, tmp_path: Path
) -> None:
    from adhere.models.policy import LoraSection, Policy, add_adapter, peft_config

    tokenizer = load_policy(ModelConfig(path=str(tiny_policy_folder))).tokenizer
    policy = Policy(add_adapter(tiny_model, peft_config(LoraSection(r=2, alpha=4))), tokenizer)
    reward = OracleReward([Constraint(RegexOracle("e"))], tokenizer, "product", Ledger(tmp_path), "rloo")
    arguments = reinforcement_arguments("rloo", _settings(tmp_path), CONFIG, SAMPLING)
    trainer = reinforcement_trainer("rloo", policy, arguments, [Prompt(0, "a")], CONFIG, reward, [])
    trainer.train()
    weights = dict(policy.model.named_parameters())
    moved = [name for name in weights if ".default." in name and not torch.equal(
        weights[name], weights[name.replace(".default.", ".ref.")])]  # fmt: skip
    assert moved
    assert all(line.get("kl", 0.0) < 1.0 for line in trainer.state.log_history)
