"""Two processes that train together come to the run of one process with the doubled batch.

Samples, labels and guidance of the first iteration are the same to the bit: they come from the same weights. What follows
differs by the order in which gradients are summed: weights within 1e-4 (SGD; AdamW would magnify it), losses within 1e-4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Train = Callable[..., Path]

SLOW = pytest.mark.skipif("MULTIPROCESS" not in os.environ, reason="takes a while: make test-multiprocess")
SGD = {"optim": "sgd", "max_grad_norm": 0.5, "learning_rate": 0.05}
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp-lora": {"lora": True},
    "fsdp2": {"sharded": "FULL_STATE_DICT"},
    "fsdp2-lora": {"sharded": "SHARDED_STATE_DICT", "lora": True},
}


@pytest.fixture(scope="module")
def one(train: Train) -> Callable[[bool], Path]:
    """The run of one process, by whether an adapter is trained."""
    done: dict[bool, Path] = {}

    def of(lora: bool) -> Path:
        if lora not in done:
            done[lora] = train(f"one-{lora}", 1, lora=lora, settings={**SGD, "positions": "both"})
        return done[lora]

    return of


def _weights(folder: Path, process: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"weights-{process}.safetensors")


def _logs(folder: Path, process: int = 0) -> list[dict[str, float]]:
    logs: list[dict[str, float]] = json.loads((folder / f"logs-{process}.json").read_text())
    return logs


@pytest.mark.parametrize("way", [way if way != "fsdp2-lora" else pytest.param(way, marks=SLOW) for way in WAYS])
def test_two_processes_equal_one_with_the_doubled_batch(
    train: Train, one: Callable[[bool], Path], base: Path, way: str
) -> None:
    order = WAYS[way]
    alone = one(order.get("lora", False))
    together = train(way, 2, settings={**SGD, "positions": "both"}, **order)
    # The first iteration's outputs and verdicts, to the byte: the header names model, settings and oracles as well.
    for file in ("samples/iteration-0000.jsonl", "labels/iteration-0000.jsonl", "labels/corpus.jsonl"):
        assert (together / file).read_bytes() == (alone / file).read_bytes(), file
    nados = [load_file(run / "guidance/iteration-0000/nado.safetensors") for run in (alone, together)]
    for name, weight in nados[0].items():
        torch.testing.assert_close(nados[1][name], weight, atol=1e-5, rtol=1e-5)
    # The second iteration's were drawn from weights that differ in their last bits.
    texts = [_outputs(run / "samples/iteration-0001.jsonl") for run in (alone, together)]
    assert sum(a != b for a, b in zip(*texts, strict=True)) <= 1
    expected = _weights(alone)
    for process in (0, 1):
        for name, weight in _weights(together, process).items():
            torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert _moved(base, alone) > 0.01  # there was something to be equal
    for line, wanted in zip(_lines(together), _lines(alone), strict=True):
        assert line == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert max(line["kl"] for line in _lines(together)) > 1e-4
    assert _logs(together) == _logs(together, 1)
    costs = [json.loads((run / "costs.json").read_text()) for run in (alone, together)]
    counted = ("generated_outputs", "oracle_calls", "optimizer_steps")
    assert [costs[1][name] for name in counted] == [costs[0][name] for name in counted]


def _lines(folder: Path) -> list[dict[str, float]]:
    names = ("loss", "corpus_loss", "kl", "regulariser", "grad_norm")
    return [{name: line[name] for name in names} for line in _logs(folder) if "loss" in line]


def _outputs(file: Path) -> list[str]:
    return [json.loads(line)["output"] for line in file.read_text().splitlines()[1:]]


def _moved(base: Path, folder: Path) -> float:
    before, after = load_file(base / "model" / "model.safetensors"), _weights(folder)
    if any("lora_B" in name for name in after):
        return max(float(weight.abs().max()) for name, weight in after.items() if "lora_B" in name)
    return max(float((after[name] - weight).abs().max()) for name, weight in before.items())
