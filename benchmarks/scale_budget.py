"""Memory and time of runs that are larger than anything measured here: arithmetic, every step of it in this file.

    python benchmarks/scale_budget.py --table docs/scale.md

Shapes of models are published; what a GPU does is its data sheet times a share that is assumed. Nothing here is a
measurement, and the page says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from result_files import put_between

GB = 1e9

# ---- assumed -------------------------------------------------------------------------------------------------------------
PEAK = 989e12  # bfloat16 operations a second of an H100 SXM, dense (data sheet)
TRAINING_SHARE = 0.35  # of it that training reaches
BANDWIDTH = 3.35e12  # bytes a second from an H100's memory (data sheet)
DECODING_SHARE = 0.5  # of it that a batched decoding step of vLLM reaches
TRANSFORMERS_STEP = 0.030  # seconds of one step of transformers' generate, whatever the batch, at least
NETWORK = 1.25e9  # bytes a second between nodes (10 Gbit/s)
ORACLE_CALL, ORACLE_AT_ONCE = 0.3, 64  # seconds of a call to an oracle that is a service, and calls at a time
CONTEXT_GB = 2.0  # CUDA, libraries, fragments

# ---- the run -------------------------------------------------------------------------------------------------------------
ROWS, LENGTH, BATCH, PROMPT, WRITTEN = 50_000, 256, 8, 64, 64  # rows, their tokens, rows a step and process, tokens
SAMPLES, ITERATIONS, CORPUS_ROWS = 2048, 3, 1024  # outputs an iteration, refreshes, corpus rows fitted beside them
AT_ONCE = 64  # sampling.batch_size
NADO_WIDTH, NADO_RANK = 256, 64  # nado.width, nado.rank: the defaults
RANK = 16  # of the adapter


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama: layers L, width D, width of the feed-forward part F, width of keys and values K, vocabulary V."""

    name: str
    layers: int
    width: int
    feed_forward: int
    key_width: int
    vocabulary: int

    @property
    def weights(self) -> float:
        """L·(2D² + 2DK + 3DF) + 2VD"""
        d, f, k = self.width, self.feed_forward, self.key_width
        return self.layers * (2 * d * d + 2 * d * k + 3 * d * f) + 2 * self.vocabulary * d

    @property
    def adapter(self) -> float:
        """r·(in + out) for each of a layer's seven matrices."""
        d, f, k = self.width, self.feed_forward, self.key_width
        return self.layers * RANK * (2 * (d + d) + 2 * (d + k) + 3 * (d + f))


SEVEN = Shape("7B", 32, 4096, 11008, 4096, 32_000)
SEVENTY = Shape("70B", 80, 8192, 28672, 1024, 128_256)


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to run: bytes of a frozen weight; whether all weights are trained; over how many GPUs they are sharded; how
    many processes train; whether the GPUs that train also sample."""

    name: str
    shape: Shape
    frozen_bytes: float
    full: bool
    shards: int
    processes: int
    samples_here: bool


SETUPS = (
    Setup("7B, LoRA, one H100", SEVEN, 2.0, False, 1, 1, True),
    Setup("7B, all weights, one H100", SEVEN, 2.0, True, 1, 1, True),
    Setup("7B, LoRA, 8 H100: DDP", SEVEN, 2.0, False, 1, 8, True),
    Setup("7B, all weights, 8 H100: FSDP2", SEVEN, 2.0, True, 8, 8, True),
    Setup("70B, LoRA in bfloat16, FSDP2 over 32 H100", SEVENTY, 2.0, False, 32, 32, False),
    Setup("70B, LoRA on 4-bit weights, DDP over 16 H100, vLLM on 8", SEVENTY, 0.5 + 4 / 64, False, 1, 16, False),
)


def memory(setup: Setup) -> list[tuple[str, float]]:
    """Parts of one GPU's memory, in GB."""
    shape, weights, adapter = setup.shape, setup.shape.weights, setup.shape.adapter
    if setup.full:
        parts = [
            ("weights, gradients, AdamW: 16 bytes a weight ÷ shards", 16 * weights / setup.shards),
            ("the model before fine-tuning, whole", setup.frozen_bytes * weights),
            ("at a boundary: the policy held still" + (", gathered first" if setup.shards > 1 else ""),
             setup.frozen_bytes * weights * (2 if setup.shards > 1 else 1)),
        ]  # fmt: skip
    else:
        parts = [
            ("frozen weights, whole", setup.frozen_bytes * weights),
            ("their shard beside them", 2 * weights / setup.shards if setup.shards > 1 else 0.0),
            ("adapter, gradients, AdamW: 16 bytes a weight", 16 * adapter),
            ("the adapter before fine-tuning, and held still", 2 * 4 * adapter),
        ]
    parts += [
        ("activations kept (checkpointing): B·T·D·L·2 bytes", BATCH * LENGTH * shape.width * shape.layers * 2),
        ("six tables B·T·V in float32 (logits, log W, gradients)", 6 * BATCH * LENGTH * shape.vocabulary * 4),
        ("NADO: 16 bytes a weight", 16 * nado(shape)),
    ]
    if setup.samples_here:
        cached = AT_ONCE * (PROMPT + WRITTEN) * 2 * shape.layers * shape.key_width * 2
        parts.append(("keys and values of 64 outputs being drawn", cached))
    return [(name, size / GB) for name, size in parts if size] + [("CUDA, libraries, fragments", CONTEXT_GB)]


def nado(shape: Shape) -> float:
    """Weights of the auxiliary model: into the trunk, its one layer, the two sides of the next-token term, its bias."""
    trunk = shape.width * NADO_WIDTH + 12 * NADO_WIDTH**2
    return trunk + NADO_WIDTH * NADO_RANK + shape.width * (NADO_RANK + 1)


def time(setup: Setup) -> list[tuple[str, float]]:
    """Parts of a run, in minutes."""
    weights, tokens = setup.shape.weights, ROWS * LENGTH
    forward_backward = 6.0 if setup.full else 4.0  # times the weights, a token; 2 of it forwards
    training = tokens * weights * (forward_backward + 2.0) / (PEAK * TRAINING_SHARE * setup.processes)
    if setup.samples_here:
        batches = -(-SAMPLES // (AT_ONCE * setup.processes))
        sampling = batches * WRITTEN * max(TRANSFORMERS_STEP, 2 * weights / (BANDWIDTH * DECODING_SHARE))
    else:
        sampling = -(-SAMPLES // 256) * WRITTEN * 2 * weights / (8 * BANDWIDTH * DECODING_SHARE)
    judging = SAMPLES * ORACLE_CALL / ORACLE_AT_ONCE
    read = 2 * (SAMPLES + CORPUS_ROWS) * (PROMPT + WRITTEN) * 2 * weights / (PEAK * TRAINING_SHARE)
    return [
        ("training, with a frozen pass", training / 60),
        (f"sampling, {ITERATIONS} times", ITERATIONS * sampling / 60),
        (f"judging by a service, {ITERATIONS} times", ITERATIONS * judging / 60),
        (f"reading for NADO, {ITERATIONS} times", ITERATIONS * read / 60),
    ]


def sent(shape: Shape, full: bool) -> float:
    """Bytes of the snapshot that a refresh elsewhere is given."""
    return 2 * shape.weights if full else 4 * shape.adapter


def tables() -> dict[str, str]:
    """The tables of the page, by their marks."""
    shapes = [f"{s.name}: {s.weights / 1e9:.2f} billion weights, an adapter of rank {RANK} has {s.adapter / 1e6:.0f} million, "
              f"NADO {nado(s) / 1e6:.1f} million" for s in (SEVEN, SEVENTY)]  # fmt: skip
    lines = ["| one GPU of | what | GB |", "| --- | --- | ---: |"]
    for setup in SETUPS:
        parts = memory(setup)
        lines += [f"| {setup.name if not n else ''} | {name} | {size:.1f} |" for n, (name, size) in enumerate(parts)]
        total = sum(size for _, size in parts)
        lines.append(f"| | **together: {'fits in 80' if total <= 76 else 'does not fit in 80'}** | **{total:.0f}** |")
    fitting = [setup for setup in SETUPS if sum(size for _, size in memory(setup)) <= 76]
    hours = [
        "| | " + " | ".join(name for name, _ in time(SETUPS[0])) + " | together, sequential | waited for, parallel |"
    ]
    hours.append("| --- |" + " ---: |" * (len(time(SETUPS[0])) + 2))
    for setup in fitting:
        parts = time(setup)
        training, refreshing = parts[0][1], sum(minutes for _, minutes in parts[1:])
        waited = refreshing / ITERATIONS + (ITERATIONS - 1) * max(0.0, refreshing / ITERATIONS - training / ITERATIONS)
        cells = " | ".join(f"{minutes:.1f}" for _, minutes in parts)
        hours.append(f"| {setup.name} | {cells} | {training + refreshing:.0f} | {waited:.1f} |")
    moved = ["| a refresh elsewhere is sent | GB | seconds at 10 Gbit/s |", "| --- | ---: | ---: |"]
    for name, shape, full in (
        ("7B, adapter", SEVEN, False),
        ("7B, all weights", SEVEN, True),
        ("70B, adapter", SEVENTY, False),
    ):
        size = sent(shape, full)
        moved.append(f"| {name} | {size / GB:.2f} | {size / NETWORK:.1f} |")
    return {
        "shapes": ". ".join(shapes) + ".",
        "memory": "\n".join(lines),
        "time": "\n".join(hours),
        "sent": "\n".join(moved),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, help="the page to put them into")
    page: Path | None = parser.parse_args(arguments).table
    for mark, table in tables().items():
        if page is None:
            print(f"{table}\n")
            continue
        put_between(page, mark, f"{table}\n")


if __name__ == "__main__":
    main()
