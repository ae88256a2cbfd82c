"""What the constrained head costs in time and memory: ÷ an equally good fused cross-entropy, and the ways it replaces.

    python benchmarks/head.py                                  # goes on where it stopped
    python benchmarks/head.py --table docs/performance.md      # from the results file; runs nothing

One call is a forward and a backward pass from last hidden states to the gradients of hidden states and head, the weight held in
float32 and the products in bfloat16 where the machine has it. Every measurement has a process of its own, and the ways come in
turn (A B C, C B A, …). Peak memory is what a call adds to the process: on a CPU the growth of its largest resident size
(ru_maxrss) from after the inputs are there, on CUDA that of the allocator's peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
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
)  # fmt: skip

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from adhere.functional.head import Tilt

BENCHMARK = "head"
PLAIN, OURS = "fused, plain", "fused, constrained"
BY_TRITON = {"fused by Triton, plain": PLAIN, "fused by Triton, constrained": OURS}
WAYS = (
    PLAIN, OURS, "materialised, plain", "materialised, constrained", *BY_TRITON, "torch linear_cross_entropy", "Liger",
    "cut-cross-entropy",
)  # fmt: skip
SHAPES = ((384, 49_152, 576, 64), (2048, 49_152, 576, 64), (512, 151_936, 896, 64), (1024, 49_152, 4096, 64))
QUICK_SHAPES = ((48, 1000, 32, 8),)
"""Tokens, vocabulary, width, rank."""

LONG_ENOUGH = 20.0  # seconds: after so many no call is repeated

Told = dict[str, Any]
Measure = Callable[[dict[str, Any]], Told]


def main(arguments: Sequence[str] | None = None, measure: Measure | None = None) -> None:
    """Measure what is not there yet, then write the results file; or put its table into a document."""
    options = _options(arguments)
    if options.job is not None:
        print(json.dumps(measured(json.loads(options.job))))
        return
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    shapes = QUICK_SHAPES if options.quick else SHAPES
    ways = [way for way in WAYS if available(way) and (not options.only or way in options.only)]
    told: dict[tuple[Any, str], list[Told]] = {}
    for turn in range(options.turns):
        for shape in shapes:
            for way in ways if turn % 2 == 0 else ways[::-1]:
                found = _told(options, {"way": way, "shape": shape, "repeats": options.repeats}, turn, measure)
                told.setdefault((shape, way), []).append(found)
    write_results(path, BENCHMARK, rows_of(told))
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="processes of each way")
    parser.add_argument("--repeats", type=int, default=5, help="calls in each of them, of which the median counts")
    parser.add_argument("--only", nargs="+", default=[], choices=WAYS)
    parser.add_argument(
        "--work", type=Path, default=Path("runs") / BENCHMARK, help="where finished measurements are kept"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="one small shape: shows that it runs, no more")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    parser.add_argument("--job", help="measure this here and print it: what the processes are started with")
    options = parser.parse_args(arguments)
    if options.quick:
        options.turns, options.repeats = 1, 1
    return options


def available(way: str) -> bool:
    """Whether what it needs is there; our kernel, Liger's and that of cut-cross-entropy are Triton's, for CUDA."""
    import torch

    packages = {"Liger": "liger_kernel", "cut-cross-entropy": "cut_cross_entropy", **dict.fromkeys(BY_TRITON, "triton")}
    if way in packages:
        return torch.cuda.is_available() and importlib.util.find_spec(packages[way]) is not None
    return way != "torch linear_cross_entropy" or hasattr(torch.nn.functional, "linear_cross_entropy")


def _told(options: argparse.Namespace, job: dict[str, Any], turn: int, measure: Measure | None) -> Told:
    """The numbers of one process, from disk where it has run before."""
    name = "-".join([*map(str, job["shape"]), job["way"].replace(", ", "-").replace(" ", "-"), str(turn)])
    result = Path(options.work) / f"{name}.json"
    if not result.exists():
        result.parent.mkdir(parents=True, exist_ok=True)
        found = (measure or in_own_process)(job)
        result.write_text(json.dumps(found), encoding="utf-8")
        print(f"{job['way']}, {job['shape']}: {found['seconds'] * 1e3:.0f} ms", file=sys.stderr, flush=True)
    told: Told = json.loads(result.read_text(encoding="utf-8"))
    return told


def in_own_process(job: dict[str, Any]) -> Told:
    """The numbers of a job. Raises SystemExit when it failed."""
    command = [sys.executable, str(Path(__file__)), "--job", json.dumps(job)]
    done = subprocess.run(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job['way']} failed (status {done.returncode}); the same command goes on from here")
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def measured(job: dict[str, Any]) -> Told:
    """Median seconds of a call, the bytes that a call adds at its peak, and the device."""
    import torch

    from adhere.models.frozen import fast_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = _inputs(job["shape"], device)
    call = _call(job["way"], inputs, fast_dtype(device))
    before, seconds = _peak(device), []
    for _ in range(1 + job["repeats"]):  # the first one is not counted
        inputs["hidden"].grad = inputs["weight"].grad = None
        start = time.perf_counter()
        call().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > LONG_ENOUGH:
            break
    counted = seconds[1:] or seconds
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {"seconds": statistics.median(counted), "bytes": max(_peak(device) - before, 1), "device": name}


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _inputs(shape: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Random weights of a language model's size: what they say does not change what the head costs."""
    import torch

    from adhere.functional.head import Tilt

    tokens, vocabulary, width, rank = shape
    random = torch.Generator(device).manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.empty(size, device=device).normal_(0, scale, generator=random)

    ones = torch.ones(tokens, device=device)
    tilt = Tilt(
        normal(tokens) + 3, normal(tokens, rank, scale=0.2), normal(vocabulary, rank, scale=0.5), normal(vocabulary, scale=0.1),
        0 * ones, ones / 0.9, 2 * ones / tokens, ones.bool(), -ones.long(), ones,
    )  # fmt: skip
    return {
        "hidden": normal(tokens, width).requires_grad_(),
        "weight": normal(vocabulary, width, scale=width**-0.5).requires_grad_(),
        "target": torch.randint(vocabulary, (tokens,), device=device, generator=random),
        "counted": ones / tokens,
        "tilt": tilt,
    }


def _call(way: str, inputs: dict[str, Any], dtype: torch.dtype) -> Callable[[], Tensor]:
    from torch.nn.functional import cross_entropy, linear

    from adhere.functional.fused import constrained_cross_entropy
    from adhere.functional.head import Head

    hidden, weight, target, counted, tilt = (inputs[name] for name in ("hidden", "weight", "target", "counted", "tilt"))
    if way in (PLAIN, OURS, *BY_TRITON):
        tilts, triton = [tilt] if BY_TRITON.get(way, way) == OURS else [], way in BY_TRITON
        return lambda: (
            constrained_cross_entropy(hidden, Head(weight), target, counted, tilts, dtype, triton=triton).loss
        )

    def materialised() -> Tensor:
        logits_NV = linear(hidden.to(dtype), weight.to(dtype))
        loss = cross_entropy(logits_NV.float(), target)
        return loss if way.endswith("plain") else loss + _regulariser(logits_NV, tilt)

    def torchs() -> Tensor:
        import torch

        chunked = torch.nn.LinearCrossEntropyOptions()
        return torch.nn.functional.linear_cross_entropy(hidden.to(dtype), weight.to(dtype), target, options=chunked)

    def ligers() -> Tensor:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        loss: Tensor = liger_fused_linear_cross_entropy(hidden.to(dtype), weight.to(dtype), target)
        return loss

    def cuts() -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        loss: Tensor = linear_cross_entropy(hidden.to(dtype), weight.to(dtype), target)
        return loss

    rivals = {"torch linear_cross_entropy": torchs, "Liger": ligers, "cut-cross-entropy": cuts}
    return rivals.get(way, materialised)


def _regulariser(logits_NV: Tensor, tilt: Tilt) -> Tensor:
    """As the trainer computes it where the fused head does not apply."""
    import torch
    from torch.nn.functional import logsigmoid

    from adhere.functional.kl import constrained_kl
    from adhere.functional.target import log_tilt

    with torch.no_grad():
        logit_NV = torch.addmm(tilt.bias_V, tilt.key_NR, tilt.table_VR.T).add_(tilt.value_N[:, None])
        log_w_NV = log_tilt(logsigmoid(logit_NV), 1 / tilt.slope_N, 1.0)
    return (tilt.weight_N * constrained_kl(logits_NV, log_w_NV)[0]).sum()


def rows_of(told: dict[tuple[Any, str], list[Told]]) -> Rows:
    """By shape and way: seconds and peak memory, and both over those of the plain fused head in the same turn."""
    rows: Rows = []
    for (shape, way), runs in told.items():
        tokens, vocabulary, width, rank = shape
        tags = {"N": str(tokens), "V": str(vocabulary), "D": str(width), "R": str(rank)}
        tags |= {"device": runs[0]["device"], "way": way}
        plain = told.get((shape, PLAIN))
        for name, key, unit, factor in (("seconds", "seconds", "s", 1.0), ("peak_memory", "bytes", "GiB", 2.0**-30)):
            rows.append(median_row(name, [factor * run[key] for run in runs], unit, **tags))
            if plain is not None:
                ratio = f"{'time' if key == 'seconds' else 'memory'}_over_plain_fused"
                rows.append(ratio_row(ratio, [run[key] for run in runs], [run[key] for run in plain], **tags))
    return rows


COLUMNS = (("seconds", "{:.3f}"), ("time_over_plain_fused", "{:.2f}"), ("peak_memory", "{:.2f}"),
           ("memory_over_plain_fused", "{:.2f}"))  # fmt: skip


def table(told: dict[str, Any], path: Path) -> str:
    """The results, one table a shape."""
    written = [made_by(told, path)]
    shapes = dict.fromkeys(tuple(row[axis] for axis in ("N", "V", "D", "R", "device")) for row in told["rows"])
    for shape in shapes:
        rows = [row for row in told["rows"] if tuple(row[axis] for axis in ("N", "V", "D", "R", "device")) == shape]
        of = {(row["name"], row["way"]): row for row in rows}
        lines = [
            [way, *(shown(of.get((name, way)), form) for name, form in COLUMNS)]
            for way in dict.fromkeys(row["way"] for row in rows)
        ]
        tokens, vocabulary, width, rank, device = shape
        first = f"{int(tokens):,} tokens, V = {int(vocabulary):,}, D = {width}, R = {rank}, {device}"
        head = [first, "seconds", "÷ plain fused", "peak memory, GiB", "÷ plain fused"]
        written.append(markdown_table(head, lines))
    return "\n\n".join(written) + "\n"


if __name__ == "__main__":
    main()
