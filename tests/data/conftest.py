"""Tiny tokenizers, made here: no network, milliseconds."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = ["The movie was good and the movie was long", "A café in the old town, a town by the sea"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<eot>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@cache
def _bytes(writes_bos: bool) -> Tokenizer:
    """Byte-level BPE, as in the models of today: a space belongs to the word after it, any text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>", "<eot>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    if writes_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def _wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """EOS only: no BOS, no pad token (as GPT-2)."""
    return _wrapped(_bytes(False), eos_token="</s>")


@pytest.fixture
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """Writes BOS before every text (as Llama)."""
    return _wrapped(_bytes(True), bos_token="<s>", eos_token="</s>", pad_token="<s>")


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Writes BOS, and its template does too; a turn ends in <eot> and a line feed, <eot> is EOS (as Llama-Instruct)."""
    tokenizer = _wrapped(_bytes(True), bos_token="<s>", eos_token="<eot>")
    tokenizer.chat_template = "<s>" + TEMPLATE
    return tokenizer


@pytest.fixture
def spm_tokenizer() -> PreTrainedTokenizerFast:
    """Puts a space before the first word of a text (as SentencePiece): a completion alone would get one too many."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return _wrapped(tokenizer, eos_token="</s>", unk_token="<unk>")
