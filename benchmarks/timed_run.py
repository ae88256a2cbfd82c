"""One training run, timed, in a process of its own: `python benchmarks/timed_run.py job.json` (from the benchmarks).

A job is a JSON object: `how` (plain, trl, constrained), `recipe` (or none for the demo's), `settings`, `cores` (to run on; all
when empty), `worker_cores` (for processes that the run starts), `folder` (of the run, removed afterwards) and `result` (the
file that the numbers are written to). Timed is `Trainer.train()`: labelling, refreshes and checkpoints included, loading and
saving the model not.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_recipe import base_recipe

if TYPE_CHECKING:
    from transformers import Trainer

    from adhere.models.policy import Policy
    from adhere.recipe.check import Prepared
    from adhere.recipe.schema import Recipe

METHODS = {"plain": "sft", "trl": "sft", "constrained": "constrained"}


def main() -> None:
    """Run the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    with _children_on(job["worker_cores"]):
        told = run(job)
    Path(job["result"]).write_text(json.dumps(told, indent=1), encoding="utf-8")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train; returns seconds, tokens trained on, peak memory and what `adhere check` expected."""
    from adhere.cli.quiet import quiet_libraries
    from adhere.costs import Ledger
    from adhere.models.policy import load_policy
    from adhere.recipe.check import prepare

    quiet_libraries()
    folder = Path(job["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    settings = [*job["settings"], f"method={METHODS[job['how']]}"]
    recipe = base_recipe(Path(job["recipe"]) if job["recipe"] else None, folder, settings)
    policy = load_policy(recipe.model, recipe.seed)
    prepared = prepare(recipe, lambda: policy)
    trainer = _trl_trainer(recipe, prepared, policy) if job["how"] == "trl" else _trainer(recipe, prepared, policy)
    start = time.perf_counter()
    with _clocked() as parts:
        trainer.train()
    seconds = time.perf_counter() - start
    costs = Ledger(folder).total()
    told = {
        "seconds": seconds,
        "steps": int(trainer.state.global_step),
        "trained_tokens": costs.trained_tokens,
        "generated_tokens": costs.generated_tokens,
        "expected_seconds": prepared.plan.training_minutes * 60,
        "peak_gib": _peak_gib(),
        "parts": parts,
        "spent": _spent(folder / "events.jsonl"),
    }
    shutil.rmtree(folder, ignore_errors=True)
    return told


def _trainer(recipe: Recipe, prepared: Prepared, policy: Policy) -> Trainer:
    from adhere.recipe.progress import silent
    from adhere.recipe.stage_trainers import stage_trainer
    from adhere.recipe.stages import stages_of

    (stage,) = stages_of(recipe, len(prepared.inputs.rows))
    return stage_trainer(recipe, prepared, policy, stage, 0, silent)


def _trl_trainer(recipe: Recipe, prepared: Prepared, policy: Policy) -> Trainer:
    """`trl.SFTTrainer` on the same token ids and labels, with the same settings."""
    from trl import SFTTrainer

    from adhere.recipe.arguments import plain_arguments, training_device
    from adhere.training.step_costs import StepCosts

    def labels(row: dict[str, Any]) -> dict[str, Any]:
        start = 1 if row["learn_prompt"] else row["prompt_length"]
        return {"labels": [-100] * start + row["input_ids"][start:]}

    rows = prepared.inputs.rows.map(labels).select_columns(["input_ids", "labels"])
    policy.model.to(training_device())
    return SFTTrainer(
        model=policy.model,
        args=plain_arguments(recipe, recipe.output_dir),
        train_dataset=rows,
        processing_class=policy.tokenizer,
        callbacks=[StepCosts(recipe.output_dir, "trl")],
    )


def _spent(events: Path) -> dict[str, float]:
    """The seconds of each part of a run, in whatever process, as the run has written them down."""
    seconds: dict[str, float] = {}
    for line in events.read_text(encoding="utf-8").splitlines() if events.exists() else ():
        told = json.loads(line)
        if told["event"] == "spent":
            seconds[told["part"]] = seconds.get(told["part"], 0.0) + told["seconds"]
    return seconds


def _peak_gib() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def _clocked() -> Iterator[dict[str, float]]:
    """The seconds of each part of the refreshes that are done in this process."""
    from adhere.guidance import refresh

    seconds: dict[str, float] = {}

    def clocked(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start

        return timed

    with ExitStack() as undo:
        for holder, name, part in (
            (refresh.Refresher, "_sample", "sampling"), (refresh.Refresher, "_label", "labelling"),
            (refresh, "read", "reading"), (refresh, "fit", "fitting"),
        ):  # fmt: skip
            own = getattr(holder, name)
            setattr(holder, name, clocked(own, part))
            undo.callback(setattr, holder, name, own)
        yield seconds


@contextmanager
def _children_on(cores: list[int]) -> Iterator[None]:
    """Processes that this one starts are moved to these cores, soon enough that their threads follow."""
    over = threading.Event()

    def watch() -> None:
        moved: set[int] = set()
        while not over.wait(0.05):
            for children in Path("/proc/self/task").glob("*/children"):
                with suppress(OSError):
                    for child in map(int, children.read_text().split()):
                        if child not in moved:
                            os.sched_setaffinity(child, cores)
                            moved.add(child)

    watcher = threading.Thread(target=watch, daemon=True)
    if cores:
        watcher.start()
    try:
        yield
    finally:
        over.set()


if __name__ == "__main__":
    main()
