"""Where the time goes: torch's profiler over plain steps and constrained steps, and a clock over one refresh of the guidance.

    python benchmarks/profile_step.py                      # the demo's model; a few minutes on two cores
    python benchmarks/profile_step.py --recipe recipe.yaml --steps 5
    python benchmarks/profile_step.py --table docs/performance.md    # from the results file; runs nothing

Every operator of a step is counted once, by its own time: in the part of the step that it lies in, and there as a product
with a vocabulary-wide matrix, as other arithmetic over the vocabulary, or as the rest. The parts of a refresh are timed by
the clock: the profiler would keep some gigabytes of its operators.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_recipe import base_recipe
from result_files import RESULTS, Rows, made_by, markdown_table, put_between, read_results, results_path, write_results

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.profiler import profile

    from adhere.recipe.schema import Recipe

BENCHMARK = "profile_step"
RUNS = ("plain", "constrained", "refresh")
REST = "everything else"
PARTS = (
    ("adhere.training.trainer", "read_frozen", "frozen reference"),
    ("adhere.training.trainer", "loss_sums", "loss and regulariser"),
    ("adhere.models.nado", "Nado.forward", "NADO's trunk"),
    ("transformers.trainer", "Trainer.compute_loss", "forward"),
    ("adhere.training.trainer", "ConstrainedTrainer.compute_loss", "forward"),
    ("accelerate", "Accelerator.backward", "backward"),
    ("accelerate.optimizer", "AcceleratedOptimizer.step", "optimiser"),
    ("accelerate", "Accelerator.clip_grad_norm_", "clipping"),
)
"""Functions that are a part of a step: module, name there, and what the table calls it. The innermost one counts."""

REFRESH_PARTS = (
    ("adhere.guidance.refresh", "Refresher._sample", "sampling"),
    ("adhere.guidance.refresh", "Refresher._label", "labelling"),
    ("adhere.guidance.refresh", "read", "reading the samples"),
    ("adhere.guidance.refresh", "fit", "fitting"),
)

PRODUCTS = ("mm", "bmm", "linear", "addbmm", "baddbmm", "matmul", "einsum", "conv", "mkldnn", "mv", "dot")
VOCABULARY_PRODUCT, VOCABULARY_WIDE, OTHER = (
    "products over the vocabulary",
    "other work over the vocabulary",
    "the rest",
)
KINDS = (VOCABULARY_PRODUCT, VOCABULARY_WIDE, OTHER)


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile and write the results file, or put its table into a document."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, "profile", table(read_results(path), path))
        return
    from adhere.cli.quiet import quiet_libraries

    quiet_libraries()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in ("sft", "constrained"):
            recipe = _recipe(options, method, Path(folder) / method)
            profiled, refresh = _profiled(recipe, options.warmup, options.steps)
            name = "plain" if method == "sft" else method
            rows += summary(name, profiled, options.steps, _vocabulary(recipe)) + refresh
            if options.trace:
                options.trace.mkdir(parents=True, exist_ok=True)
                profiled.export_chrome_trace(str(options.trace / f"{name}.json"))
    write_results(path, BENCHMARK, rows)
    print(table(read_results(path), path))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, help="the demo's when left out")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as in `adhere train`")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the profiler is started")
    parser.add_argument("--steps", type=int, default=4, help="steps profiled, of each kind")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; its own choice when left out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--trace", type=Path, help="folder for traces that Perfetto and chrome://tracing show")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    return parser.parse_args(arguments)


def _recipe(options: argparse.Namespace, method: str, folder: Path) -> Recipe:
    own = [f"method={method}", "guidance.iterations=1", f"training.max_steps={options.warmup + options.steps}"]
    return base_recipe(options.recipe, folder, [*own, *options.settings])


def _vocabulary(recipe: Recipe) -> int:
    from adhere.models.outline import outline

    return outline(recipe.model).vocabulary


def _profiled(recipe: Recipe, warmup: int, steps: int) -> tuple[profile, Rows]:
    """A profile of the steps after the first ones, and what the parts of the refresh took, where there is one."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function
    from transformers import TrainerCallback

    from adhere.models.policy import load_policy
    from adhere.recipe.check import prepare
    from adhere.recipe.progress import silent
    from adhere.recipe.stage_trainers import stage_trainer
    from adhere.recipe.stages import stages_of

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    policy = load_policy(recipe.model, recipe.seed)
    prepared = prepare(recipe, lambda: policy)
    (stage,) = stages_of(recipe, len(prepared.inputs.rows))
    trainer = stage_trainer(recipe, prepared, policy, stage, 0, silent)
    of_steps = profile(activities=activities, record_shapes=True, acc_events=True)
    spent: Counter[str] = Counter()

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == warmup:
                of_steps.__enter__()
            elif state.global_step == warmup + steps:
                of_steps.__exit__(None, None, None)

    trainer.add_callback(Steps())
    trainer.args.save_strategy = "no"  # a checkpoint is no part of a step
    with _wrapped(PARTS, lambda part: record_function(f"part: {part}")):
        if recipe.method == "constrained":
            take = trainer._take_guidance  # type: ignore[attr-defined]

            def take_guidance() -> None:
                if trainer.state.global_step:
                    return take()
                with _wrapped(REFRESH_PARTS, lambda part: _clock(spent, part)), _clock(spent, REST):
                    take()
                spent[REST] -= sum(spent[part] for _, _, part in REFRESH_PARTS)

            trainer._take_guidance = take_guidance  # type: ignore[attr-defined]
        trainer.train()
    return of_steps, [
        {
            "name": "milliseconds",
            "value": 1000 * seconds,
            "n": 1,
            "unit": "ms",
            "run": "refresh",
            "part": part,
            "kind": OTHER,
        }
        for part, seconds in spent.items()
    ]


@contextmanager
def _clock(spent: Counter[str], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[part] += time.perf_counter() - start  # type: ignore[assignment]


@contextmanager
def _wrapped(
    parts: Sequence[tuple[str, str, str]], around: Callable[[str], AbstractContextManager[Any]]
) -> Iterator[None]:
    """For the time of the block these functions run inside what `around` makes; those that are gone do not."""
    import importlib

    def named(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def shown(*args: Any, **keywords: Any) -> Any:
            with around(part):
                return function(*args, **keywords)

        return shown

    with ExitStack() as undo:
        for module, name, part in parts:
            holder: Any = importlib.import_module(module)
            *owners, attribute = name.split(".")
            for owner in owners:
                holder = getattr(holder, owner, None)
            own = vars(holder).get(attribute) if holder is not None else None
            if own is not None:
                setattr(holder, attribute, named(own, part))
                undo.callback(setattr, holder, attribute, own)
        yield


def summary(run: str, profiled: profile, steps: int, vocabulary: int) -> Rows:
    """Milliseconds a step of every part and kind."""
    spent: Counter[tuple[str, str]] = Counter()
    for event in profiled.events() or ():
        own = max(event.self_cpu_time_total, getattr(event, "self_device_time_total", 0.0))
        if own > 0:
            spent[_part(event), _kind(event.name, event.input_shapes, vocabulary)] += own
    return [
        {"name": "milliseconds", "value": microseconds / 1000 / steps, "n": steps, "unit": "ms", "run": run, "part": part,
         "kind": kind}
        for (part, kind), microseconds in spent.items()
    ]  # fmt: skip


def _part(event: Any) -> str:
    """The innermost named part that an operator lies in."""
    while event is not None:
        if event.name.startswith("part: "):
            return str(event.name).removeprefix("part: ")
        event = event.cpu_parent
    return REST


def _kind(name: str, shapes: Sequence[Any] | None, vocabulary: int) -> str:
    wide = any(isinstance(shape, (list, tuple)) and vocabulary in shape for shape in shapes or ())
    if not wide:
        return OTHER
    operator = name.rpartition("::")[2]
    return VOCABULARY_PRODUCT if any(word in operator for word in PRODUCTS) else VOCABULARY_WIDE


def table(told: dict[str, Any], path: Path) -> str:
    """The results as a table for each run, the costliest part first."""
    written = []
    for run in RUNS:
        rows = [row for row in told["rows"] if row["run"] == run]
        if not rows:
            continue
        total = sum(row["value"] for row in rows)
        parts = sorted({row["part"] for row in rows}, key=lambda part: -_sum(rows, part))
        kinds = KINDS if run != "refresh" else ()
        lines = [
            [part, *(f"{_sum(rows, part, kind):,.0f}" for kind in kinds), f"{_sum(rows, part):,.0f}", f"{share:.0%}"]
            for part in parts
            if (share := _sum(rows, part) / total) >= 1 / 200
        ]
        lines.append(["all", *(f"{_sum(rows, None, kind):,.0f}" for kind in kinds), f"{total:,.0f}", "100%"])
        what = "one refresh" if run == "refresh" else f"a step, {run}"
        written.append(f"{markdown_table([f'{what}, ms', *kinds, 'together', 'share'], lines)}\n")
    return "\n".join([f"{made_by(told, path)}\n", *written])


def _sum(rows: Rows, part: str | None, kind: str | None = None) -> float:
    kept = (row for row in rows if part in (None, row["part"]) and kind in (None, row["kind"]))
    return float(sum(row["value"] for row in kept))


if __name__ == "__main__":
    main()
