"""What each part of a run computes and moves, and how long that takes on a machine (explained in docs/performance.md).

A part takes as long as its matrix products at the share of full speed that such products were seen to reach, or as its bytes,
whichever is more, and besides that its elementwise work. With the seconds of plain fine-tuning for the unit, a run takes

    1 + k + x + ρg + a + o              on one device
    max(1 + k + x + s, ρg + a + o)      with a second one that makes the guidance meanwhile

k the regulariser in the head · x frozen model, NADO and anchor in the steps · ρg outputs drawn and read (ρ of them a trained
row) · a NADO fitted · o the oracle · s handing the policy over. The oracle's own time is not known beforehand: none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adhere.guidance.evidence import ASKED_OF_A_SEQUENCE
from adhere.models.corpus_features import ROWS_AT_ONCE
from adhere.models.frozen import fast_dtype
from adhere.models.nado_config import NadoConfig
from adhere.models.outline import ModelOutline
from adhere.recipe.schema import Recipe
from adhere.recipe.workload import guidance_samples, refreshes

STEP_EFFICIENCY, DECODING_EFFICIENCY, SMALL_EFFICIENCY = 0.55, 0.22, 0.25
"""Share of a large matrix product's speed that a training step, a forward pass, batched decoding and NADO's small products
reach; seen with the demo's model on CPU cores."""

HALF_SPEED_TOKENS = 400.0
"""Of a step's or a forward pass's share, half is reached with so many tokens in a pass: over few tokens the products are thin.
The demo's steps have 150."""

HEAD_WORK, REGULARISER_WORK = 4.0, 9.0
"""Elementwise work on a logit, in sigmoids: of the cross-entropy with its gradient, and of one constraint beside it."""

ADAM_BYTES = 32
"""Moved for a trained weight in a step: weight, gradient and two moments read, three of them written, the norm's pass."""

_BENCH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Machine:
    """Speeds of a device, a second."""

    trained: float  # floating-point operations of a matrix product, in the dtype of training
    inference: float  # in that of frozen models
    exact: float  # in float32
    elements: float  # sigmoids of a block that lies in the cache
    bytes: float  # copied, read and written counted


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run: its symbol above (1 for plain fine-tuning), floating-point operations, bytes, seconds."""

    name: str
    symbol: str
    flops: float
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What a constrained run costs, part by part."""

    parts: tuple[Part, ...]

    def seconds(self, *symbols: str) -> float:
        """Seconds of the parts with these symbols."""
        return sum(part.seconds for part in self.parts if part.symbol in symbols)

    def shares(self) -> dict[str, float]:
        """Each symbol's seconds ÷ those of plain fine-tuning."""
        symbols = dict.fromkeys(part.symbol for part in self.parts)
        return {symbol: self.seconds(symbol) / self.seconds("1") for symbol in symbols}

    def ratio(self, second_device: bool = False) -> float:
        """Constrained ÷ plain fine-tuning."""
        of = self.shares()
        step, making = sum(of.get(name, 0.0) for name in "1kxs"), sum(of.get(name, 0.0) for name in ("ρg", "a", "o"))
        return max(step, making) if second_device else step - of.get("s", 0.0) + making

    def sentence(self) -> str:
        """The sum, as a person reads it."""
        of = self.shares()
        told = " + ".join(f"{name} {of[name]:.2f}" for name in ("k", "x", "ρg", "a") if name in of)
        return f"1 + {told} = {self.ratio():.2f} × plain fine-tuning on one device; {self.ratio(True):.2f} × with a second one"


def constrained_costs(
    recipe: Recipe, model: ModelOutline, machine: Machine, lengths: Sequence[int], steps: int, drawn: int
) -> Costs:
    """The parts of a constrained run.

    Args:
        lengths: tokens of each corpus row.
        steps: optimiser steps.
        drawn: outputs drawn, for guidance and to measure satisfaction.
    """
    batch = recipe.training.batch_size * recipe.training.gradient_accumulation_steps
    mean = sum(lengths) / len(lengths)
    visited = steps * batch * (2 if recipe.guidance.positions != "corpus" else 1)
    tokens, weights, small = visited * mean, float(model.parameters), float(nado_weights(recipe.nado, model.width))
    constraints, refreshed = len(recipe.constraints), refreshes(recipe, steps)
    anchors = recipe.guidance.anchor != "live"
    kept = recipe.guidance.positions == "corpus" and not anchors and visited >= len(lengths)
    frozen = (len(lengths) * mean if kept else tokens) + anchors * tokens
    if recipe.nado.shape == "own" and not anchors:
        frozen = 0.0
    logits = tokens * model.vocabulary * constraints
    near = tokens if recipe.guidance.reference_kl > 0 else 0.0  # held near the reference
    sequences = (recipe.guidance.samples + min(recipe.nado_fit.corpus_rows, len(lengths))) * refreshed
    fitted = sequences * mean
    # What is drawn to measure satisfaction is not read. The policy reads the sequences that consistency is asked of.
    read = (recipe.nado.shape != "own") * guidance_samples(recipe, steps) * (mean + recipe.sampling.max_new_tokens)
    asked = (recipe.nado_fit.consistency_weight > 0) * recipe.nado_fit.consistency_positions / ASKED_OF_A_SEQUENCE
    read += min(asked * refreshed, sequences) * mean
    decoded, batches = drawn * recipe.sampling.max_new_tokens, -(-drawn // recipe.sampling.batch_size)
    passes = batches * recipe.sampling.max_new_tokens

    micro_steps = steps * recipe.training.gradient_accumulation_steps
    stepping = machine.trained * product_share(tokens / micro_steps)
    reading = reading_speed(machine, mean)
    in_steps = reading if kept else machine.inference * product_share(tokens / micro_steps)
    # In the dtype of the frozen model, but half of the time goes into what is no product: the mean of the two speeds.
    trunk = SMALL_EFFICIENCY * math.sqrt(machine.inference * machine.exact)

    def part(name: str, symbol: str, flops: float, speed: float, moved: float = 0.0, work: float = 0.0) -> Part:
        return Part(name, symbol, flops, moved, max(flops / speed, moved / machine.bytes) + work / machine.elements)

    return Costs((
        plain_part(model, machine, steps * batch * mean, steps, micro_steps),
        part("regulariser in the head", "k",
             2 * logits * (recipe.nado.rank + 1) + 2 * near * model.vocabulary * model.width,
             stepping, work=REGULARISER_WORK * logits + HEAD_WORK * near * model.vocabulary),
        part("frozen model in the steps", "x", 2 * weights * frozen, in_steps),
        part("NADO in the steps", "x", 2 * small * tokens * constraints, trunk),
        part("drawing outputs", "ρg", 2 * weights * decoded, DECODING_EFFICIENCY * machine.inference, 2 * weights * passes),
        part("reading outputs", "ρg", 2 * weights * read, reading),
        part("fitting NADO", "a", 6 * small * fitted * recipe.nado_fit.epochs * constraints, trunk),
        part("the oracle", "o", 0.0, 1.0),
        part("handing the policy over", "s", 0.0, 1.0, 8.0 * model.trainable * refreshed),
    ))  # fmt: skip


def product_share(tokens: float) -> float:
    """The share of full speed that a training step or a forward pass reaches with so many tokens in a pass."""
    return STEP_EFFICIENCY * tokens / (tokens + HALF_SPEED_TOKENS)


def reading_speed(machine: Machine, length: float) -> float:
    """Operations a second of forward passes over rows of so many tokens, `ROWS_AT_ONCE` together."""
    return machine.inference * product_share(ROWS_AT_ONCE * length)


def plain_part(model: ModelOutline, machine: Machine, tokens: float, steps: int, micro_steps: int) -> Part:
    """Fine-tuning without a constraint: products of body and head, the cross-entropy, and AdamW, which is memory alone.

    Args:
        tokens: trained on in all steps.
        micro_steps: passes over a micro-batch; as many as steps where gradients are not accumulated.
    """
    flops = tokens * (4.0 * model.parameters + 2.0 * model.trainable)
    moved = steps * (ADAM_BYTES * model.trainable + 6.0 * model.parameters)  # the weights once more for bfloat16 copies
    seconds = flops / (product_share(tokens / micro_steps) * machine.trained) + moved / machine.bytes
    work = HEAD_WORK * tokens * model.vocabulary / machine.elements
    return Part("plain fine-tuning", "1", flops, moved, seconds + work)


def nado_weights(nado: NadoConfig, width: int) -> int:
    """Weights of one constraint's NADO."""
    count = nado.width * (width + 12 * nado.width * nado.layers) + nado.rank * (nado.width + width)
    return count + (width * nado.width if nado.shape == "own" else 0)


def measured_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The speeds of this machine now, in about a second.

    Args:
        dtype: of training.
    """
    speeds = {each: matmul_speed(device, each) for each in dict.fromkeys((dtype, fast_dtype(device), torch.float32))}
    block = torch.zeros(2**26 if device.type == "cuda" else 2**18, device=device)
    long, copy = (torch.zeros(2**24, device=device) for _ in range(2))
    elements = block.numel() * _times_a_second(lambda: torch.sigmoid(block, out=block), device)
    moved = 2 * long.numel() * long.element_size() * _times_a_second(lambda: copy.copy_(long), device)
    return Machine(speeds[dtype], speeds[fast_dtype(device)], speeds[torch.float32], elements, moved)


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product here and now, in a fifth of a second."""
    size = 4096 if device.type == "cuda" else 768
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    return 2.0 * size**3 * _times_a_second(lambda: a @ b, device)


def _times_a_second(call: Callable[[], object], device: torch.device) -> float:
    done, seconds = 0, 0.0
    call()
    start = time.perf_counter()
    while seconds < _BENCH_SECONDS:  # at least once, however long this process is kept waiting
        for _ in range(4):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        done += 4
        seconds = time.perf_counter() - start
    return done / seconds
