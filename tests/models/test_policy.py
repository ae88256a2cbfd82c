"""A model and its tokenizer come from a folder whole, or a person is told what is wrong with the folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import ModelError
from adhere.models.policy import (
    LoraSection,
    ModelConfig,
    Policy,
    add_adapter,
    as_policy,
    load_policy,
    locate,
    peft_config,
    prepare_tokenizer,
    snapshot,
)

IDS_BT = torch.tensor([[7, 4, 11, 11, 14]])


def _load(folder: Path, seed: int = 0, **settings: object) -> Policy:
    return load_policy(ModelConfig.model_validate({"path": str(folder), **settings}), seed)


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_weights_and_its_tokenizer(tiny_policy_folder: Path, tiny_model: LlamaForCausalLM) -> None:
    policy = _load(tiny_policy_folder)
    assert _same(policy.model.state_dict(), tiny_model.state_dict())
    assert policy.tokenizer("hello")["input_ids"] == IDS_BT[0].tolist()
    assert (policy.context_length, policy.has_adapter, policy.device.type) == (64, False, "cpu")


@pytest.mark.parametrize(("dtype", "held"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_are_held_in_the_dtype_asked_for(tiny_policy_folder: Path, dtype: str, held: torch.dtype) -> None:
    assert {weight.dtype for weight in _load(tiny_policy_folder, dtype=dtype).model.parameters()} == {held}


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    _without_weights(folder)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def _cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])


def _of_another_model(folder: Path) -> None:
    save_file(
        load_file(folder / "model.safetensors") | {"lm_head.weight": torch.zeros(5, 16)}, folder / "model.safetensors"
    )


def _one_weight_short(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGES: dict[Callable[[Path], None], str] = {
    _without_weights: r"holds no weights: looked for \*\.safetensors, found config\.json",
    _pickled: r"found .*pytorch_model\.bin.* pickled weights \(\*\.bin\) are not read, convert them to safetensors",
    _without_config: "holds no config.json",
    _without_tokenizer: "cannot be loaded",
    _damaged_tokenizer: "cannot be loaded",
    _cut_short: "cannot be loaded",
    _of_another_model: "cannot be loaded",
    _one_weight_short: r"1 are missing, for example model\.layers\.1\.mlp\.up_proj\.weight",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_folder_that_is_not_whole_is_refused_by_name(
    tiny_policy_folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(tiny_policy_folder)
    with pytest.raises(ModelError, match=DAMAGES[damage]) as refused:
        _load(tiny_policy_folder)
    assert str(tiny_policy_folder) in str(refused.value)


def test_an_empty_folder_is_said_to_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found nothing"):
        _load(tmp_path)


def test_a_file_instead_of_a_folder_is_refused(tiny_policy_folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file; give the folder"):
        _load(tiny_policy_folder / "model.safetensors")


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere", "~/nowhere-at-all"])
def test_a_path_that_leads_nowhere_is_not_looked_for_on_the_hub(path: str) -> None:
    with pytest.raises(ModelError, match="does not exist; give a folder or a hub id"):
        locate(ModelConfig(path=path))


def test_what_is_no_folder_is_a_hub_id() -> None:
    assert locate(ModelConfig(path="someone/some-model")) == "someone/some-model"


def test_the_word_embedded_means_the_demos_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("adhere.models.embedded.embedded_model", lambda: tmp_path / "converted")
    assert locate(ModelConfig(path="embedded")) == str(tmp_path / "converted")


def test_quantisation_without_an_adapter_is_refused(tiny_policy_folder: Path) -> None:
    with pytest.raises(ValidationError, match=r"model\.quantization needs model\.lora"):
        _load(tiny_policy_folder, quantization="4bit")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantisation_without_its_package_names_the_package(tiny_policy_folder: Path) -> None:
    with pytest.raises(ModelError, match="bitsandbytes"):
        _load(tiny_policy_folder, quantization="8bit", lora={})


# ---- adapters -----------------------------------------------------------------------------------------------------------


def test_lora_trains_the_adapter_alone_and_starts_as_the_model_itself(
    tiny_policy_folder: Path, tiny_model: LlamaForCausalLM
) -> None:
    policy = _load(tiny_policy_folder, lora={"r": 2})
    assert policy.has_adapter
    trained = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in policy.model.named_parameters() if ".lora_" in name}
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven matrices each
    with torch.no_grad():
        assert torch.equal(policy.model(IDS_BT).logits, tiny_model(IDS_BT).logits)


def test_an_adapter_depends_on_its_seed_and_on_nothing_else(tiny_policy_folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = (snapshot(_load(tiny_policy_folder, seed, lora={}).model) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert _same(snapshot(_load(tiny_policy_folder, 3, lora={}).model), one)
    assert not _same(one, other)


def test_every_setting_of_the_lora_section_reaches_peft() -> None:
    config = peft_config(LoraSection(r=3, alpha=5, dropout=0.25, target_modules=["q_proj"]))
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 5, 0.25)
    assert (config.target_modules, config.task_type) == ({"q_proj"}, "CAUSAL_LM")


def test_an_adapter_for_modules_that_the_model_lacks_is_refused(tiny_model: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match=r"query_projection.*model\.lora\.target_modules"):
        add_adapter(tiny_model, peft_config(LoraSection(target_modules=["query_projection"])))


def test_a_snapshot_is_a_copy_of_what_is_trained(tiny_model: LlamaForCausalLM) -> None:
    whole = snapshot(tiny_model)
    assert whole.keys() == dict(tiny_model.named_parameters()).keys()
    kept = whole["model.norm.weight"].clone()
    with torch.no_grad():
        tiny_model.model.norm.weight.add_(1.0)
    assert torch.equal(whole["model.norm.weight"], kept)
    assert not whole["model.norm.weight"].requires_grad


def test_a_snapshot_of_an_adapted_model_costs_only_the_adapter(tiny_model: LlamaForCausalLM) -> None:
    copied = snapshot(add_adapter(tiny_model, peft_config(LoraSection(r=1, target_modules=["v_proj"]))))
    assert len(copied) == 4 and all(".v_proj.lora_" in name for name in copied)


# ---- tokenizers ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_sequence(tiny_policy_folder: Path) -> None:
    tokenizer = _load(tiny_policy_folder).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 31


def test_a_pad_token_that_is_there_stays(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.pad_token = "!"
    assert prepare_tokenizer(tiny_tokenizer).pad_token == "!"


def test_a_tokenizer_with_which_no_output_could_end_is_refused(
    tiny_policy_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_tokenizer.eos_token = None
    tiny_tokenizer.save_pretrained(tiny_policy_folder)
    with pytest.raises(ModelError, match=r"no end-of-sequence token; set eos_token in its tokenizer_config\.json"):
        _load(tiny_policy_folder)


# ---- what a trainer is given --------------------------------------------------------------------------------------------


def test_a_path_a_model_and_a_policy_are_all_policies(
    tiny_policy_folder: Path, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = as_policy(str(tiny_policy_folder))
    assert _same(loaded.model.state_dict(), tiny_model.state_dict())
    given = as_policy(tiny_model, tiny_tokenizer)
    assert given.model is tiny_model and given.tokenizer.pad_token_id == 31
    assert as_policy(given) is given


def test_a_loaded_model_without_its_tokenizer_is_refused(tiny_model: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match="processing_class must be the tokenizer of the model"):
        as_policy(tiny_model)


def test_an_adapter_is_put_on_whatever_is_given(tiny_policy_folder: Path) -> None:
    config = peft_config(LoraSection(r=2))
    policy = as_policy(str(tiny_policy_folder), adapter=config, seed=5)
    assert policy.has_adapter
    assert _same(snapshot(policy.model), snapshot(_load(tiny_policy_folder, 5, lora={"r": 2}).model))
