"""A model of a few thousand weights in a folder, a corpus of short rows, and a recipe that trains the one on the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adhere.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]

NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant", "bee", "elk", "emu")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer over bytes, saved as transformers saves models; its tokenizer has no pad token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{c: i for i, c in enumerate(alphabet)}, "<eos>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=256, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """24 rows, every other one with the word `bad`."""
    path = tmp_path / "corpus.jsonl"
    rows = [f"a {noun} is {word} now" for noun in NOUNS for word in ("bad", "good")]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_recipe(tiny_model: Path, corpus: Path, tmp_path: Path) -> MakeRecipe:
    """A recipe of a few seconds; sections given as dictionaries are laid over its own."""

    def make(**sections: Any) -> Recipe:
        settings: dict[str, Any] = {
            "model": {"path": str(tiny_model)},
            "corpus": {"path": str(corpus), "prompt_words": 2, "max_length": 32, "holdout": 0.25},
            "constraints": [{"oracle": {"kind": "words", "words": ["bad"]}}],
            "sampling": {"max_new_tokens": 8, "batch_size": 8},
            "guidance": {"iterations": 2, "samples": 8},
            "nado": {"width": 8, "heads": 2, "rank": 4},
            "nado_fit": {"epochs": 1, "corpus_rows": 16, "consistency_positions": 8},
            "training": {"max_steps": 4, "batch_size": 4, "logging_steps": 2, "bf16": False},
            "evaluation": {"judges": [{"kind": "length", "maximum": 3, "name": "short"}]},
            "output_dir": str(tmp_path / "run"),
        }
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(settings.get(name), dict)
            settings[name] = {**settings[name], **section} if both else section
        return Recipe.model_validate(settings)

    return make
