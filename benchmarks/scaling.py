"""How a constrained step grows: time and memory over tokens, vocabulary, constraints and the size of the model.

    python benchmarks/scaling.py                    # every axis, from one common point; goes on where it stopped
    python benchmarks/scaling.py --axes vocabulary
    python benchmarks/scaling.py --table docs/performance.md

The models are Llamas with random weights, the rows random words of which one in four violates. A step is forward, loss,
backward and optimiser, without the refresh; the plain steps and the constrained ones come in turn, in processes of their own
(so that the peak of each one's memory is its own), and a ratio is taken within a turn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from result_files import (
    RESULTS,
    Rows,
    made_by,
    markdown_table,
    median_row,
    put_between,
    ratio_row,
    read_results,
    results_path,
    shown,
    write_results,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BENCHMARK = "scaling"
COMMON = {"rows": 8, "length": 64, "vocabulary": 32_768, "constraints": 1, "width": 512, "layers": 6}
AXES: dict[str, tuple[dict[str, int], ...]] = {
    "tokens": tuple({"length": length} for length in (16, 64, 256, 512)),
    "vocabulary": tuple({"vocabulary": size} for size in (1024, 8192, 32_768, 151_936)),
    "constraints": tuple({"constraints": count} for count in (1, 2, 4)),
    "model": tuple(
        {"width": width, "layers": layers} for width, layers in ((128, 2), (512, 6), (1024, 12), (2048, 12))
    ),
}
QUICK = {"rows": 2, "length": 8, "vocabulary": 64, "constraints": 1, "width": 16, "layers": 1}

Told = dict[str, float]
Measure = Callable[[dict[str, Any]], Told]


def main(arguments: Sequence[str] | None = None, measure: Measure | None = None) -> None:
    """Measure what is not there yet and write the results file; or put its table into a document."""
    options = _options(arguments)
    if options.job is not None:
        print(json.dumps(run(json.loads(options.job))))
        return
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    rows: Rows = []
    for axis in options.axes:
        for changed in [{}] if options.quick else AXES[axis]:
            shape = {**(QUICK if options.quick else COMMON), **changed}
            rows += _rows(axis, changed, shape, options, measure or in_own_process)
    write_results(path, BENCHMARK, rows)
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--steps", type=int, default=8, help="steps of a run; the first two are not counted")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs") / BENCHMARK, help="where finished runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="one tiny shape an axis: shows that it runs, no more")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.turns = 3, 1
    return options


def _rows(
    axis: str, changed: dict[str, int], shape: dict[str, int], options: argparse.Namespace, measure: Measure
) -> Rows:
    told: dict[str, list[Told]] = {"plain": [], "constrained": []}
    for turn in range(options.turns):
        for how in sorted(told, reverse=turn % 2 == 0):
            name = "-".join(f"{key}{value}" for key, value in shape.items())
            kept: Path = options.work / f"{name}.{how}.{options.steps}.{turn}.json"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(
                    json.dumps(measure({"how": how, "steps": options.steps, "shape": shape})), encoding="utf-8"
                )
            told[how].append(json.loads(kept.read_text(encoding="utf-8")))
    at = ", ".join(f"{key} {value:,}" for key, value in changed.items()) or "the common point"
    tags = {"axis": axis, "at": at, **{key: str(value) for key, value in shape.items()}}
    of = {(how, key): [run[key] for run in runs] for how, runs in told.items() for key in ("seconds", "peak_gib")}
    print(f"{axis}, {at}: {of}", file=sys.stderr, flush=True)
    rows = [
        ratio_row("time_over_plain", of["constrained", "seconds"], of["plain", "seconds"], **tags),
        ratio_row("memory_over_plain", of["constrained", "peak_gib"], of["plain", "peak_gib"], **tags),
    ]
    for how in told:
        rows.append(median_row("seconds_a_step", of[how, "seconds"], "s", method=how, **tags))
        rows.append(median_row("peak_memory", of[how, "peak_gib"], "GiB", method=how, **tags))
    return rows


def in_own_process(job: dict[str, Any]) -> Told:
    """A job's numbers. Raises SystemExit when it failed."""
    command = [sys.executable, str(Path(__file__)), "--job", json.dumps(job)]
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{job} failed (status {done.returncode}); the same command goes on from here")
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def run(job: dict[str, Any]) -> Told:
    """Steps of one kind on one shape: the median seconds of a step, and the process's peak memory in GiB."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from adhere.cli.quiet import quiet_libraries
    from adhere.data.collation import ConstrainedCollator
    from adhere.guidance.constraint import Constraint
    from adhere.models.frozen import fast_dtype
    from adhere.oracles.rules import RegexOracle
    from adhere.recipe.arguments import training_device
    from adhere.recipe.stage_trainers import PlainCollator
    from adhere.training.config import ConstrainedConfig
    from adhere.training.rows import tokenised
    from adhere.training.trainer import ConstrainedTrainer

    quiet_libraries()
    shape, times = job["shape"], []

    class Times(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.start)

    model, tokenizer = _model(shape)
    corpus = _corpus(shape, job["steps"])
    bad = {f"no w{number}": f"(?<!\\S)w{number}(?!\\S)" for number in range(shape["constraints"])}
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": folder, "max_steps": job["steps"], "per_device_train_batch_size": shape["rows"],
            "logging_steps": 1000, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
            "use_cpu": training_device().type == "cpu", "dataloader_pin_memory": False, "seed": 0,
            "bf16": str(fast_dtype(training_device())) == "torch.bfloat16",
        }  # fmt: skip
        own = ConstrainedConfig(
            **settings, iterations=1, max_length=shape["length"], refresh={"samples": 8},
            sampling={"max_new_tokens": 4, "batch_size": 8}, nado_fit={"epochs": 1, "consistency_positions": 8},
        )  # fmt: skip
        if job["how"] == "constrained":
            constraints = [Constraint(RegexOracle(pattern), name=name) for name, pattern in bad.items()]
            trainer: Trainer = ConstrainedTrainer(model, own, corpus, constraints, processing_class=tokenizer)
        else:
            trainer = Trainer(
                model.to(training_device()),
                TrainingArguments(**settings, remove_unused_columns=False),
                train_dataset=tokenised(corpus, tokenizer, own),
                data_collator=PlainCollator(ConstrainedCollator(tokenizer)),
            )
        trainer.add_callback(Times())
        trainer.train()
    return {"seconds": statistics.median(times[2:] or times), "peak_gib": _peak_gib()}


def _model(shape: dict[str, int]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama with random weights over words w0, w1, …"""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(shape["vocabulary"] - 1)} | {"<eos>": shape["vocabulary"] - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    heads = max(2, shape["width"] // 64)
    config = LlamaConfig(
        vocab_size=shape["vocabulary"], hidden_size=shape["width"], intermediate_size=shape["width"] * 8 // 3,
        num_hidden_layers=shape["layers"], num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=shape["vocabulary"] - 1, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def _corpus(shape: dict[str, int], steps: int) -> list[dict[str, str]]:
    """Rows of `length` tokens, enough for every step; every fourth has a word that violates each constraint."""
    import random

    draw, rows = random.Random(0), []
    for number in range(max(shape["rows"] * steps, 16)):
        words = [f"w{draw.randrange(8, shape['vocabulary'] - 1)}" for _ in range(shape["length"] - 1)]
        if number % 4 == 0:
            words[-shape["constraints"] - 1 : -1] = [f"w{bad}" for bad in range(shape["constraints"])]
        rows.append({"prompt": words[0], "completion": " " + " ".join(words[1:])})
    return rows


def _peak_gib() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(told: dict[str, Any], path: Path) -> str:
    """One line a point of every axis."""
    written = [made_by(told, path)]
    for axis in dict.fromkeys(row["axis"] for row in told["rows"]):
        rows = [row for row in told["rows"] if row["axis"] == axis]
        lines = []
        for at in dict.fromkeys(row["at"] for row in rows):
            of = {(row["name"], row.get("method")): row for row in rows if row["at"] == at}
            lines.append(
                [at, *(shown(of["seconds_a_step", how], "{:.3f}") for how in ("plain", "constrained")),
                 shown(of["time_over_plain", None]),
                 *(shown(of["peak_memory", how]) for how in ("plain", "constrained")),
                 shown(of["memory_over_plain", None])]
            )  # fmt: skip
        head = [axis, "plain, s a step", "constrained, s a step", "ratio", "plain, GiB", "constrained, GiB", "ratio"]
        written.append(markdown_table(head, lines))
    common = ", ".join(f"{key} {value:,}" for key, value in COMMON.items())
    return "\n\n".join([*written, f"What an axis does not change stands at: {common}."]) + "\n"


if __name__ == "__main__":
    main()
