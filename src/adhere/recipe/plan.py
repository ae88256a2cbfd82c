"""What a run will take, told before anything is spent.

Minutes are an estimate: floating-point operations counted by rule of thumb (2 a weight and token forwards, 4
backwards), over what this machine does with a matrix product right now, times how far real models were measured to stay
below that.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from adhere.models.frozen import fast_dtype
from adhere.models.outline import ModelOutline
from adhere.recipe.arguments import DEFAULT_EPOCHS, training_device, trains_in_bf16
from adhere.recipe.inputs import Inputs
from adhere.recipe.schema import Recipe
from adhere.recipe.workload import AFTER_SFT, workload
from adhere.training.method_config import AT_THE_END, measured_every

TRAINING_EFFICIENCY = 0.35
DECODING_EFFICIENCY = 0.12
"""Share of a matrix product's speed that training and batched decoding reach; measured with the demo on 2 CPU cores."""

_BENCH_SECONDS = 0.2
_GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 4}


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done and what it is expected to take."""

    method: str
    model: str
    parameters: int
    trainable: int
    device: str
    dtype: str
    rows: int
    heldout: int
    prompts: int
    steps: int
    tokens: int
    samples: int  # outputs drawn in training
    evaluated: int  # outputs drawn to evaluate one model
    training_minutes: float
    evaluation_minutes: float
    memory_gib: float
    disk_gib: float
    free_gib: float
    output_dir: Path
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[tuple[str, str]]:
        """Label and value of every fact, as a person reads them."""
        share = "" if self.trainable == self.parameters else f", of which {_count(self.trainable)} are trained"
        held = (
            f"{self.heldout:,} held out, {self.evaluated:,} outputs evaluated a model"
            if self.heldout
            else "none held out"
        )
        sampled = f"; {self.samples:,} outputs sampled on the way" if self.samples else ""
        return [
            ("method", self.method),
            ("model", f"{self.model}: {_count(self.parameters)} weights{share}"),
            ("arithmetic", f"{self.dtype} on {self.device}"),
            ("corpus", f"{self.rows:,} rows to learn from; {held}"),
            ("training", f"{self.steps:,} steps, about {self.tokens:,} tokens{sampled}"),
            ("time", f"about {_minutes(self.training_minutes)} to train, {_minutes(self.evaluation_minutes)} to "
                     "evaluate (an estimate)"),
            ("memory", f"about {self.memory_gib:.1f} GiB (an estimate)"),
            ("disk", f"up to {self.disk_gib:.1f} GiB of {self.free_gib:.1f} GiB free"),
            ("run folder", str(self.output_dir)),
            *(("warning", warning) for warning in self.warnings),
        ]  # fmt: skip


def training_steps(recipe: Recipe, rows: int) -> int:
    """Optimiser steps of the run, as the Trainer counts them on one device."""
    training = recipe.training
    if training.max_steps is not None:
        return training.max_steps
    batches = math.ceil(rows / training.batch_size)
    steps_an_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    return math.ceil((training.epochs or DEFAULT_EPOCHS) * steps_an_epoch)


def measured_outputs(recipe: Recipe, steps: int) -> int:
    """Outputs drawn to measure satisfaction for constraints whose λ is found, the measurement at the end included."""
    if all(constraint.multiplier == "fixed" for constraint in recipe.constraints):
        return 0
    every = recipe.guidance.measure_every or measured_every(steps)
    return (max(0, steps - 1) // every + AT_THE_END) * recipe.guidance.measure_samples


def make_plan(recipe: Recipe, model: ModelOutline, inputs: Inputs, free: int, warnings: list[str]) -> Plan:
    """The plan of a run whose inputs have been read.

    Args:
        free: bytes that are free where the run folder is.
        warnings: what is not wrong but should be known.
    """
    device, steps = training_device(), training_steps(recipe, len(inputs.rows))
    lengths = [len(ids) for ids in inputs.rows["input_ids"]]
    mean_length = sum(lengths) / len(lengths)
    work = workload(recipe, steps, mean_length, sum(inputs.rows["prompt_length"]) / len(lengths))
    tokens = round(work.trained_tokens)
    constrained = recipe.method == "constrained"
    refreshed = recipe.guidance.samples * recipe.guidance.iterations if constrained else 0
    samples = refreshed + (measured_outputs(recipe, steps) if constrained else work.drawn)
    evaluated = len(inputs.heldout_prompts) * recipe.evaluation.samples_per_prompt
    dtype = torch.bfloat16 if trains_in_bf16(recipe) else torch.float32
    speed = matmul_speed(device, dtype)
    inference = speed if fast_dtype(device) == dtype else matmul_speed(device, fast_dtype(device))
    fitted = (refreshed + recipe.nado_fit.corpus_rows * recipe.guidance.iterations) * mean_length if constrained else 0
    decoded = recipe.sampling.max_new_tokens
    decoded_later = (recipe.evaluation.sampling or recipe.sampling).max_new_tokens
    two_p = 2.0 * model.parameters
    training = tokens * (two_p * 2 + 2.0 * model.trainable) / (TRAINING_EFFICIENCY * speed)
    if constrained:
        frozen_passes = 1 + (recipe.guidance.anchor != "live")
        training += (tokens * frozen_passes + 2 * fitted) * two_p / (TRAINING_EFFICIENCY * inference)
    training += work.read_tokens * two_p / (TRAINING_EFFICIENCY * inference)
    training += samples * decoded * two_p / (DECODING_EFFICIENCY * inference)
    evaluation = evaluated * decoded_later * two_p / (DECODING_EFFICIENCY * inference)
    return Plan(
        method=recipe.method,
        model=recipe.model.path,
        parameters=model.parameters,
        trainable=model.trainable,
        device=torch.cuda.get_device_name(0) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        dtype=str(dtype).removeprefix("torch."),
        rows=len(inputs.rows),
        heldout=len(inputs.heldout),
        prompts=len(inputs.prompts),
        steps=steps,
        tokens=tokens,
        samples=samples,
        evaluated=evaluated,
        training_minutes=training / 60,
        evaluation_minutes=evaluation / 60,
        memory_gib=memory_needed(recipe, model, max(lengths)) / _GIB,
        disk_gib=disk_needed(recipe, model) / _GIB,
        free_gib=free / _GIB,
        output_dir=recipe.output_dir,
        warnings=tuple(warnings),
    )


def disk_needed(recipe: Recipe, model: ModelOutline) -> int:
    """Bytes of checkpoints (one more than are kept, while one is written), final model, guidance and samples."""
    saved = model.trainable if recipe.model.lora else model.parameters
    checkpoint = saved * _BYTES[recipe.model.dtype] + model.trainable * 2 * _BYTES[recipe.model.dtype]
    nado = recipe.nado
    nado_weights = nado.width * (model.width + 12 * nado.width * nado.layers) + nado.rank * (nado.width + model.width)
    if nado.shape == "own":
        nado_weights += model.width * nado.width
    guidance = recipe.guidance.iterations * len(recipe.constraints) * nado_weights * 12
    steps = recipe.training.max_steps or 0  # without it the default is a fixed number of measurements
    samples = (recipe.guidance.iterations * recipe.guidance.samples + measured_outputs(recipe, steps)) * 4096
    constrained = guidance + samples if recipe.method in ("constrained", "guided-decoding") else 0
    before = saved * _BYTES[recipe.model.dtype] if recipe.method in AFTER_SFT else 0  # the model of the stage before
    anchors = recipe.guidance.iterations * saved * 4 if recipe.guidance.anchor == "iteration" else 0
    return (recipe.training.save_total_limit + 1) * checkpoint + saved * 4 + constrained + anchors + before


def memory_needed(recipe: Recipe, model: ModelOutline, longest: int) -> int:
    """Bytes of weights, gradients, Adam's moments, frozen copies, and one batch's activations and logits."""
    held = _BYTES[recipe.model.dtype]
    weights = model.parameters * (held if recipe.model.quantization is None else 1) + model.trainable * held * 3
    copies = {"constrained": 2, "guided-decoding": 1, **dict.fromkeys(AFTER_SFT, 1)}.get(recipe.method, 0)
    copied = 0 if recipe.model.lora else copies * model.parameters * held
    tokens = recipe.training.batch_size * longest
    activations = tokens * model.layers * model.width * (4 if recipe.training.gradient_checkpointing else 40)
    logits = tokens * model.vocabulary * 4 * (6 if recipe.method == "constrained" else 3)
    cache = recipe.sampling.batch_size * (longest + recipe.sampling.max_new_tokens) * model.layers * model.width * 4
    return weights + copied + max(activations + logits, cache)


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product here and now, in a fifth of a second."""
    size = 4096 if device.type == "cuda" else 768
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    products, seconds = 0, 0.0
    _ = a @ b
    start = time.perf_counter()
    while seconds < _BENCH_SECONDS:  # at least once, however long this process is kept waiting
        for _ in range(4):
            _ = a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        products += 4
        seconds = time.perf_counter() - start
    return products * 2.0 * size**3 / seconds


def _count(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
