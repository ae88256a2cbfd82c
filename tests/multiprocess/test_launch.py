"""`accelerate launch` itself, with the configuration that is shipped: minutes, so not with the other tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif("MULTIPROCESS" not in os.environ, reason="takes minutes: make test-multiprocess")


def _recipe(base: Path, name: str, **changed: Any) -> Path:
    settings = {
        "model": {"path": str(base / "model")},
        "corpus": {"path": str(base / "corpus.jsonl"), "max_length": 32, "holdout": 0.25},
        "constraints": [{"oracle": {"kind": "regex", "pattern": "z"}}],
        "sampling": {"max_new_tokens": 6, "batch_size": 4},
        "guidance": {"iterations": 2, "samples": 20},
        "nado": {"width": 8, "heads": 2, "rank": 4},
        "nado_fit": {"epochs": 2, "batch_size": 4, "corpus_rows": 8, "consistency_positions": 8, "held_out": 0.4},
        "training": {"max_steps": 4, "batch_size": 3, "learning_rate": 1e-2, "save_steps": 2, "bf16": False},
        "evaluation": {"judges": []},
        "output_dir": str(base / name),
        **changed,
    }
    recipe = base / f"{name}.json"  # JSON is YAML
    recipe.write_text(json.dumps(settings), encoding="utf-8")
    return recipe


def _launch(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/ddp.yaml"]
    command += ["--num_processes", "2", "--main_process_port", "0", "-m", "adhere", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


def test_the_command_trains_in_two_processes_and_one_of_them_speaks(base: Path) -> None:
    recipe = _recipe(base, "launched")
    done = _launch("train", str(recipe))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Model:") == 1 and done.stdout.count("processes") == 1
    assert done.stderr.count("constrained fine-tuning 0/4") == 1
    folder = base / "launched"
    assert json.loads((folder / "training.json").read_text())["steps"] == 4
    assert (folder / "model" / "model.safetensors").exists() and not (folder / "run.lock").exists()
    assert len(list((folder / "checkpoint-4").glob("rng_state_*.pth"))) == 2
    costs = json.loads((folder / "costs.json").read_text())
    assert costs["generated_outputs"] == 40 and costs["optimizer_steps"] == 4
    again = _launch("train", str(recipe), "--resume")  # finished: left as it is
    assert again.returncode == 0, again.stderr
    refused = _launch("train", str(recipe))
    assert refused.returncode != 0
    assert refused.stderr.count("holds another run") == 1 and "process 0 of this run stopped" not in refused.stderr


def test_a_method_for_one_process_is_refused_once(base: Path) -> None:
    done = _launch("train", str(_recipe(base, "refused")), "--method", "guided-decoding")
    assert done.returncode != 0 and not (base / "refused").exists()
    assert "method guided-decoding trains in one process, and here are 2" in done.stderr
