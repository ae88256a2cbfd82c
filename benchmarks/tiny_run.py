"""A run of seconds: a Llama of a few thousand weights, harmless rows, and a recipe that uses every part of a run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

CHARACTERS = "abcdefghijklmnopqrstuvwxyz ."
NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant", "bee", "elk", "emu", "eel", "ape", "yak", "jay")

RECIPE: dict[str, Any] = {
    "constraints": [{"name": "no_z", "oracle": {"kind": "regex", "pattern": "z"}, "multiplier": "dual", "target": 0.9}],
    "sampling": {"max_new_tokens": 8, "batch_size": 8},
    "guidance": {
        "iterations": 2, "samples": 32, "anchor": "iteration", "positions": "both", "measure_every": 2,
        "measure_samples": 8,
    },
    "nado": {"width": 8, "heads": 2, "rank": 4},
    "nado_fit": {
        "epochs": 6, "batch_size": 8, "corpus_rows": 16, "consistency_positions": 16, "learning_rate": 0.02, "held_out": 0.3,
        "averaging": 0.5,
    },
    # A constant learning rate: a step too many would show.
    "training": {
        "max_steps": 6, "batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "save_steps": 2,
        "lr_scheduler_type": "constant", "logging_steps": 1,
    },
    "evaluation": {"judges": []},
}  # fmt: skip


def make_base(folder: Path) -> None:
    """Write the model and the corpus to a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate(CHARACTERS)} | {"<eos>": len(CHARACTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
        bos_token_id=None, eos_token_id=len(CHARACTERS),
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    rows = [{"prompt": f"the {noun}", "completion": f" is {end}."} for noun in NOUNS for end in ("zzz", "good")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_recipe(base: Path, run: Path, path: Path, **sections: Any) -> Path:
    """Write the recipe of a run in the folder `run` to `path`; sections given stand in the place of its own."""
    recipe = {**copy.deepcopy(RECIPE), **sections}
    corpus = {"path": str(base / "corpus.jsonl"), "max_length": 32, "holdout": 0.25}
    where = {"model": {"path": str(base / "model")}, "corpus": corpus, "output_dir": str(run)}
    path.write_text(json.dumps({**recipe, **where}), encoding="utf-8")  # JSON is YAML
    return path
