"""`kill -9` at any point of a run, then `--resume`: the model is that of a run nobody disturbed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("run_and_kill.py")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz ."

KILLS = {  # where, and what must be there already when it happens
    "between two batches of samples": None,
    "in the middle of a batch of samples": "samples/iteration-0000.jsonl",
    "in the middle of a batch of labels": "labels/iteration-0000.jsonl",
    "fitting": "labels/iteration-0000.jsonl",
    "writing guidance": "guidance/iteration-0000.partial/nado.safetensors",
    "fine-tuning, between two micro-batches": "checkpoint-2/trainer_state.json",
    "in the middle of a batch of the second iteration's samples": "samples/iteration-0001.jsonl",
    "fitting in the second iteration": "labels/iteration-0001.jsonl",
    "in the middle of a measurement": "checkpoint-4/trainer_state.json",
    "writing the optimiser of a checkpoint": "checkpoint-4/optimizer.pt",
    "before the last file of a checkpoint": "checkpoint-4/scheduler.pt",
    "after the last checkpoint": "checkpoint-5/trainer_state.json",
}

Run = Callable[..., int]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a corpus."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("killed")
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
    nouns = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant", "bee", "elk", "emu")
    rows = [{"prompt": f"the {noun}", "completion": f" is {end}."} for noun in nouns for end in ("zzz", "good")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(base: Path) -> Iterator[Run]:
    """Trains in a process of its own; gives its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FIT_STEPS": str(_FIT_STEPS)}
    worker = subprocess.Popen(
        [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert worker.stdin is not None and worker.stdout is not None

    def train(name: str, *, kill: str = "", resume: bool = False, cli: bool = False, **strike: Any) -> int:
        assert worker.stdin is not None and worker.stdout is not None
        recipe = base / f"{name}.json"  # JSON is YAML
        recipe.write_text(json.dumps({**_RECIPE, **_paths(base), "output_dir": str(base / name)}), encoding="utf-8")
        order = {"recipe": str(recipe), "resume": resume, "log": str(base / f"{name}.log"), "kill": kill}
        order |= {"folder": str(base / name), "strike": strike, "cli": ["train", str(recipe)] if cli else None}
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
        return int(worker.stdout.readline())

    yield train
    worker.stdin.close()
    worker.wait(timeout=30)
    worker.stdout.close()


_RECIPE: dict[str, Any] = {
    # λ is found: what is measured, and what follows from it, must come out the same as well.
    "constraints": [{"oracle": {"kind": "regex", "pattern": "z"}, "multiplier": "dual", "target": 0.9}],
    "sampling": {"max_new_tokens": 6, "batch_size": 4},
    "guidance": {
        "iterations": 2, "samples": 12, "anchor": "iteration", "positions": "both", "measure_every": 2,
        "measure_samples": 8,
    },
    "nado": {"width": 8, "heads": 2, "rank": 4},
    "nado_fit": {
        "epochs": 3, "batch_size": 4, "corpus_rows": 8, "consistency_positions": 8, "learning_rate": 0.03,
        "held_out": 0.4,
    },
    # A constant learning rate: a step too many would show.
    "training": {
        "max_steps": 5, "batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "save_steps": 2,
        "lr_scheduler_type": "constant",
    },
    "evaluation": {"judges": []},
}  # fmt: skip
_FIT_STEPS = 9  # three epochs of 7 samples and 4 corpus rows, the rest held out


def _paths(base: Path) -> dict[str, Any]:
    corpus = {"path": str(base / "corpus.jsonl"), "max_length": 32, "holdout": 0.25}
    return {"model": {"path": str(base / "model")}, "corpus": corpus}


def _model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(base: Path, run: Run) -> Path:
    counted = run("undisturbed", count=str(base / "counts.json"))
    assert counted == 0, (base / "undisturbed.log").read_text()
    return base / "undisturbed"


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_resumes_to_the_same_model_to_the_bit(base: Path, run: Run, undisturbed: Path, kill: str) -> None:
    name = kill.replace(" ", "-").replace(",", "").replace("'", "")
    folder, log = base / name, base / f"{name}.log"
    assert run(name, kill=kill) == -signal.SIGKILL, log.read_text()
    assert not (folder / "training.json").exists()
    there = KILLS[kill]
    assert there is None or (folder / there).exists(), sorted(folder.rglob("*"))
    assert run(name, resume=True) == 0, log.read_text()
    expected, found = _model(undisturbed), _model(folder)
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    for file in ("samples/iteration-0000.jsonl", "samples/iteration-0001.jsonl", "labels/iteration-0001.jsonl"):
        assert (folder / file).read_bytes() == (undisturbed / file).read_bytes()
    assert json.loads((folder / "training.json").read_text())["steps"] == 5
    assert _costs(folder) == _costs(undisturbed)  # work that is done again counts once


def _costs(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "costs.json").read_text())
    return {name: amount for name, amount in told.items() if name != "train_seconds"}


def test_a_run_killed_again_and_again_resumes_to_the_same_model(base: Path, run: Run, undisturbed: Path) -> None:
    kills = ("in the middle of a batch of samples", "fitting", "writing the optimiser of a checkpoint")
    for number, kill in enumerate(kills):
        assert run("often", kill=kill, resume=number > 0) == -signal.SIGKILL, (base / "often.log").read_text()
    assert run("often", resume=True) == 0, (base / "often.log").read_text()
    expected, found = _model(undisturbed), _model(base / "often")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert _costs(base / "often") == _costs(undisturbed)


def test_there_was_something_to_lose(undisturbed: Path, base: Path) -> None:
    """The comparison would be empty if training or guidance changed nothing."""
    before, after = load_file(base / "model" / "model.safetensors"), _model(undisturbed)
    assert not any(torch.equal(before[key], after[key]) for key in before if "proj" in key)
    history = json.loads((undisturbed / "log_history.json").read_text())
    assert max(line.get("kl", 0.0) for line in history) > 1e-3
    assert len({line["multiplier/regex"] for line in history if "multiplier/regex" in line}) == 3  # at 0, 2 and 4
    guidance = [undisturbed / "guidance" / f"iteration-000{k}" / "nado.safetensors" for k in (0, 1)]
    one, other = (load_file(path) for path in guidance)
    assert not all(torch.equal(one[key], other[key]) for key in one)


# ---- at random moments (benchmarks/faults.py strikes at many more) --------------------------------------------------------


def _moment(base: Path, place: str) -> dict[str, Any]:
    """A moment of the run, of all that it does in a place; the same each time."""
    counts = json.loads((base / "counts.json").read_text())
    return {"place": place, "tick": random.Random(f"11 {place}").randint(1, counts[place])}


def _unchanged(base: Path, name: str, undisturbed: Path) -> bool:
    expected, found = _model(undisturbed), _model(base / name)
    return all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("place", ["labelling", "saving"])
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_model(
    base: Path, run: Run, undisturbed: Path, place: str
) -> None:
    assert run(place, **_moment(base, place), how="half") == -signal.SIGKILL, (base / f"{place}.log").read_text()
    assert run(place, resume=True) == 0, (base / f"{place}.log").read_text()
    assert _unchanged(base, place, undisturbed)


def test_a_full_disk_is_a_clear_error_and_nothing_is_lost(base: Path, run: Run, undisturbed: Path) -> None:
    """No file can grow any more, whoever writes it: Python, torch or safetensors."""
    code = run("full", cli=True, **_moment(base, "saving"), how="full")
    told = (base / "full.log").read_text()
    assert code == 2 and "Traceback" not in told, told
    assert "everything before it is kept" in told
    assert run("full", resume=True) == 0, (base / "full.log").read_text()
    assert _unchanged(base, "full", undisturbed)


def test_a_second_process_in_the_folder_is_refused_and_the_first_is_not_disturbed(
    base: Path, run: Run, undisturbed: Path
) -> None:
    told = base / "second.txt"
    code = run("second", cli=True, **_moment(base, "training"), how="second", told=str(told))
    assert code == 0, (base / "second.log").read_text()
    assert told.read_text() == "2"
    assert "is in use: process " in (base / "second.log.second").read_text()
    assert _unchanged(base, "second", undisturbed)
