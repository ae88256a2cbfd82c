"""A policy from a GGUF file, which is written here weight by weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from adhere.errors import ModelError
from adhere.models.policy import ModelConfig, load_policy, locate

OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INNER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _write_gguf(model: LlamaForCausalLM, file: Path) -> None:
    gguf = pytest.importorskip("gguf")
    config, head = model.config, model.config.hidden_size // model.config.num_attention_heads
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*"abcdefghijklmnopqrstuvwxyz.,!Ġ", "ab", "<eos>"])
    writer.add_token_types([1] * 31 + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(31)
    for name, weight in model.state_dict().items():
        place = name.removesuffix(".weight")
        if place not in OUTER:
            layer, _, part = place.removeprefix("model.layers.").partition(".")
            place = f"blk.{layer}.{INNER[part]}"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):  # GGUF has the two halves of a rotary head interleaved
                weight = weight.view(-1, 2, head // 2, config.hidden_size).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(f"{OUTER.get(place, place)}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_weights_that_were_put_in(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    _write_gguf(tiny_model, tmp_path / "tiny[f32].gguf")
    policy = load_policy(ModelConfig(path=str(tmp_path), gguf_file="tiny[f32].gguf"))
    loaded = policy.model.state_dict()
    assert loaded.keys() == tiny_model.state_dict().keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in tiny_model.state_dict().items())
    assert policy.tokenizer("ab c")["input_ids"] == [30, 29, 2]
    assert policy.tokenizer.pad_token_id is not None


@pytest.mark.parametrize("name", ["other.gguf", "*.gguf", "below", "../*"])
def test_a_gguf_file_that_is_not_there_is_refused_with_what_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "tiny.gguf").touch()
    (tmp_path / "below").mkdir()
    with pytest.raises(ModelError, match=r"holds no weights: looked for .*, found below, tiny\.gguf"):
        locate(ModelConfig(path=str(tmp_path), gguf_file=name))


def test_the_full_path_of_a_gguf_file_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no weights: looked for .*elsewhere\.gguf, found nothing"):
        locate(ModelConfig(path=str(tmp_path), gguf_file=str(tmp_path.parent / "elsewhere.gguf")))


def test_a_gguf_file_instead_of_its_folder_is_refused_with_the_way_to_say_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(ModelError, match=r"is a file; give the folder it is in \(and model\.gguf_file for GGUF\)"):
        locate(ModelConfig(path=str(tmp_path / "tiny.gguf")))


def test_a_gguf_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(ModelConfig(path=str(tmp_path), gguf_file="tiny.gguf"))


def test_gguf_and_quantisation_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    config = {"path": str(tmp_path), "gguf_file": "tiny.gguf", "quantization": "4bit", "lora": {}}
    with pytest.raises(ModelError, match=r"model\.quantization and model\.gguf_file exclude each other"):
        locate(ModelConfig.model_validate(config))
