"""What a run will take, told before anything is spent.

Minutes are an estimate: what `cost_model` counts, over what this machine does right now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from adhere import ranks
from adhere.models.outline import ModelOutline
from adhere.recipe.arguments import DEFAULT_EPOCHS, training_device, trains_in_bf16
from adhere.recipe.cost_model import (
    DECODING_EFFICIENCY,
    constrained_costs,
    measured_machine,
    nado_weights,
    plain_part,
    reading_speed,
)
from adhere.recipe.inputs import Inputs
from adhere.recipe.overlap import elsewhere, how_refreshed, overlapped_seconds
from adhere.recipe.schema import Recipe
from adhere.recipe.workload import AFTER_SFT, guidance_samples, workload
from adhere.training.method_config import AT_THE_END, iterations_in, measured_every

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
    processes: int = 1  # that train together
    cost: str = ""  # of the constraint, as a sum
    refreshed: str = ""  # when and where guidance is, unless training waits for it in this process

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
            *([("processes", f"{self.processes}; each takes its share of every step, memory is that of one with its weights "
                             "whole")] if self.processes > 1 else []),
            ("corpus", f"{self.rows:,} rows to learn from; {held}"),
            ("training", f"{self.steps:,} steps, about {self.tokens:,} tokens{sampled}"),
            *([("guidance", self.refreshed)] if self.refreshed else []),
            ("time", f"about {_minutes(self.training_minutes)} to train, {_minutes(self.evaluation_minutes)} to "
                     "evaluate (an estimate)"),
            *([("constraint", f"{self.cost} (an estimate, the oracle's own time left out)")] if self.cost else []),
            ("memory", f"about {self.memory_gib:.1f} GiB (an estimate)"),
            ("disk", f"up to {self.disk_gib:.1f} GiB of {self.free_gib:.1f} GiB free"),
            ("run folder", str(self.output_dir)),
            *(("warning", warning) for warning in self.warnings),
        ]  # fmt: skip


def training_steps(recipe: Recipe, rows: int) -> int:
    """Optimiser steps of the run, as the Trainer counts them."""
    training = recipe.training
    if training.max_steps is not None:
        return training.max_steps
    batches = math.ceil(rows / (training.batch_size * ranks.launched()))
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
    refreshed = guidance_samples(recipe, steps) if constrained else 0
    samples = refreshed + (measured_outputs(recipe, steps) if constrained else work.drawn)
    evaluated = len(inputs.heldout_prompts) * recipe.evaluation.samples_per_prompt
    dtype = torch.bfloat16 if trains_in_bf16(recipe) else torch.float32
    machine = measured_machine(device, dtype)
    decoded = recipe.sampling.max_new_tokens
    decoded_later = (recipe.evaluation.sampling or recipe.sampling).max_new_tokens
    two_p = 2.0 * model.parameters
    drawing, reading = DECODING_EFFICIENCY * machine.inference, reading_speed(machine, mean_length)
    if constrained:
        costs = constrained_costs(recipe, model, machine, lengths, steps, samples)
        step, making = costs.seconds("1", "k", "x"), costs.seconds("ρg", "a", "o")
        training, cost = step + making - overlapped_seconds(recipe, steps, step, making), costs.sentence()
    else:
        micro_steps = steps * recipe.training.gradient_accumulation_steps * ranks.launched()
        training, cost = plain_part(model, machine, tokens, steps, micro_steps).seconds, ""
        training += work.read_tokens * two_p / reading + samples * decoded * two_p / drawing
    evaluation = evaluated * decoded_later * two_p / drawing
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
        training_minutes=training / 60 / ranks.launched(),
        evaluation_minutes=evaluation / 60,
        memory_gib=memory_needed(recipe, model, max(lengths)) / _GIB,
        disk_gib=disk_needed(recipe, model, steps) / _GIB,
        free_gib=free / _GIB,
        output_dir=recipe.output_dir,
        warnings=tuple(warnings),
        processes=ranks.launched(),
        refreshed=how_refreshed(recipe, steps),
        cost=cost,
    )


def disk_needed(recipe: Recipe, model: ModelOutline, steps: int) -> int:
    """Bytes of checkpoints (one more than are kept, while one is written), final model, guidance and samples.

    Args:
        steps: of the run.
    """
    saved = model.trainable if recipe.model.lora else model.parameters
    checkpoint = saved * _BYTES[recipe.model.dtype] + model.trainable * 2 * _BYTES[recipe.model.dtype]
    iterations = iterations_in(steps, recipe.guidance.iterations)
    guidance = iterations * len(recipe.constraints) * nado_weights(recipe.nado, model.width) * 12
    samples = (iterations * recipe.guidance.samples + measured_outputs(recipe, steps)) * 4096
    constrained = guidance + samples if recipe.method in ("constrained", "guided-decoding") else 0
    before = saved * _BYTES[recipe.model.dtype] if recipe.method in AFTER_SFT else 0  # the model of the stage before
    anchors = iterations * saved * 4 if recipe.guidance.anchor == "iteration" else 0
    if recipe.method == "constrained" and recipe.guidance.where(recipe.guidance.schedule) != "in-process":
        anchors += 2 * saved * 4  # the snapshot that guidance is made from, and the one before in a checkpoint
    return (recipe.training.save_total_limit + 1) * checkpoint + saved * 4 + constrained + anchors + before


def memory_needed(recipe: Recipe, model: ModelOutline, longest: int) -> int:
    """Bytes of weights, gradients, Adam's moments, frozen copies, and one batch's activations and logits."""
    held = _BYTES[recipe.model.dtype]
    weights = model.parameters * (held if recipe.model.quantization is None else 1) + model.trainable * held * 3
    copies = {"constrained": 2, "guided-decoding": 1, **dict.fromkeys(AFTER_SFT, 1)}.get(recipe.method, 0)
    copied = 0 if recipe.model.lora else copies * model.parameters * held
    tokens = recipe.training.batch_size * longest
    activations = tokens * model.layers * model.width * (4 if recipe.training.gradient_checkpointing else 40)
    logits = tokens * model.vocabulary * 4 * 3
    if recipe.method == "constrained":
        # The fused head holds a chunk of them, and the gradient of its weight in float32. In front of the Triton kernel the
        # chunk's products with the reference's head and with every constraint's table lie beside it.
        chunk, each = (2048, 2 * (2 + len(recipe.constraints))) if recipe.training.fused_head == "triton" else (512, 4)
        fused = min(tokens, chunk) * model.vocabulary * each + model.vocabulary * model.width * 4
        logits = fused if recipe.guidance.anchor == "live" else 2 * logits
    cache = recipe.sampling.batch_size * (longest + recipe.sampling.max_new_tokens) * model.layers * model.width * 4
    where = recipe.guidance.where(recipe.guidance.schedule) if recipe.method == "constrained" else "in-process"
    if where == "worker" and not elsewhere(recipe):  # the worker's model stands beside the trainer's
        return (
            weights + copied + activations + logits + cache + model.parameters * held * (1 if recipe.model.lora else 2)
        )
    return weights + copied + max(activations + logits, cache)


def _count(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
