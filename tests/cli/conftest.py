"""A recipe file of a few seconds, with a model of a few thousand weights; and the process left as it was found."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import yaml

NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant", "bee", "elk", "emu")


@pytest.fixture(autouse=True)
def _the_process_as_it_was() -> Iterator[None]:
    """The command sets environment variables and a log handler, which is right for a process of its own."""
    logger = logging.getLogger("adhere")
    handlers = list(logger.handlers)
    with mock.patch.dict(os.environ):
        yield
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file; its model, its corpus and its run are beside it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("project")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{c: i for i, c in enumerate(alphabet)}, "<eos>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    wrapped.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    wrapped.save_pretrained(folder / "tiny")
    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=256,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder / "tiny")
    rows = [{"text": f"a {noun} is {word} now"} for noun in NOUNS for word in ("bad", "good")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": {"path": str(folder / "tiny")},
        "corpus": {"path": str(folder / "corpus.jsonl"), "prompt_words": 2, "max_length": 32, "holdout": 0.25},
        "constraints": [{"oracle": {"kind": "words", "words": ["bad"]}}],
        "sampling": {"max_new_tokens": 8, "batch_size": 8},
        "guidance": {"iterations": 2, "samples": 8},
        "nado": {"width": 8, "heads": 2, "rank": 4},
        "nado_fit": {"epochs": 1, "corpus_rows": 16, "consistency_positions": 8},
        "training": {"max_steps": 4, "batch_size": 4, "logging_steps": 2, "bf16": False},
        "evaluation": {"judges": [{"kind": "length", "maximum": 3, "name": "short"}]},
        "output_dir": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path
