"""Two processes on this CPU that train together, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORKER = Path(__file__).with_name("train_in_ranks.py")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,!?"
NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant")
ENDS = ("good", "zz", "so very good", "ok zz!", "a")

SETTINGS: dict[str, Any] = {
    "max_steps": 6, "iterations": 2, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 100, "max_length": 32,
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 7,
    "sampling": {"max_new_tokens": 6, "batch_size": 4}, "refresh": {"samples": 20},
    "nado": {"width": 8, "heads": 2, "rank": 4},
    "nado_fit": {
        "epochs": 3, "batch_size": 4, "corpus_rows": 8, "consistency_positions": 8, "learning_rate": 0.03,
        "held_out": 0.4,
    },
}  # fmt: skip

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand weights, its tokenizer, and rows of different lengths, some of which violate."""
    folder = tmp_path_factory.mktemp("ranks")
    vocabulary = {character: number for number, character in enumerate(CHARACTERS)} | {"<eos>": len(CHARACTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
        bos_token_id=None, eos_token_id=len(CHARACTERS),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder / "model")
    # 27 rows: the last step of an epoch has 3 of 12, so one of two processes has nothing but fillers.
    rows = [
        {"prompt": f"the {noun}", "completion": f" is {ENDS[(place + other) % len(ENDS)]}"}
        for place, noun in enumerate(NOUNS)
        for other in range(3)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def train(base: Path) -> Iterator[Train]:
    """Trains a run in so many processes; gives its folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    worker = subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert worker.stdin is not None and worker.stdout is not None

    def run(name: str, processes: int, *, expected: list[int] | None = None, **order: Any) -> Path:
        assert worker.stdin is not None and worker.stdout is not None
        settings = {**SETTINGS, "per_device_train_batch_size": 12 // processes, **order.pop("settings", {})}
        told = {"processes": processes, "base": str(base), "folder": str(base / name), "log": str(base / f"{name}.log")}
        told |= {"sharded": "", "lora": False, "settings": settings, **order}
        worker.stdin.write(json.dumps(told) + "\n")
        worker.stdin.flush()
        codes = json.loads(worker.stdout.readline())
        logs = [(base / f"{name}.log-{index}").read_text() for index in range(processes)]
        assert codes == (expected or [0] * processes), "\n".join(logs)
        return base / name

    yield run
    worker.stdin.close()
    worker.wait(timeout=120)
    worker.stdout.close()
