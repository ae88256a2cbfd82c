"""Training in several processes: what cannot be carried out there, and which part of a batch is a process's own.

A step of n processes with batches of b rows is the step of one process with batches of n·b rows: the same rows, each once,
the same sampled outputs, and sums that are divided by the counts of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adhere import ranks
from adhere.data.collation import IGNORED
from adhere.errors import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import Trainer, TrainingArguments


def join_processes(args: TrainingArguments) -> None:
    """Work together with the other processes from now on. Raises RecipeError when nobody tells which of them this is."""
    if args.world_size != ranks.launched():
        raise RecipeError(
            f"torch trains in {args.world_size} processes here, and the environment names {ranks.launched()}: start them with "
            "`accelerate launch` or `torchrun`, which set RANK, LOCAL_RANK and WORLD_SIZE"
        )
    ranks.join()


def check_processes(trainer: Trainer) -> None:
    """Raises RecipeError for a way of launching several processes that would train something else, or not at all."""
    args: TrainingArguments = trainer.args
    if args.world_size == 1:
        return
    state: Any = trainer.accelerator.state
    batches: Any = args.accelerator_config
    fsdp, deepspeed = getattr(state, "fsdp_plugin", None), getattr(state, "deepspeed_plugin", None)
    if fsdp is not None and fsdp.fsdp_version != 2:
        raise RecipeError(
            "FSDP is supported in its second version: set fsdp_version: 2 in the launcher's configuration"
        )
    if fsdp is not None and fsdp.cpu_ram_efficient_loading:
        raise RecipeError(
            "fsdp_cpu_ram_efficient_loading leaves all processes but the first without the model before fine-tuning, which "
            "each of them reads: set it to false in the launcher's configuration"
        )
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise RecipeError(
            "DeepSpeed's ZeRO stage 3 shards the weights out of reach of sampling and guidance: use stage 2, or FSDP2"
        )
    meshes = getattr(trainer.accelerator, "parallelism_config", None)
    if meshes is not None and max(meshes.tp_size, meshes.cp_size, meshes.sp_size) > 1:
        raise RecipeError(
            "several processes train on different rows here: leave out tensor, context and sequence parallelism"
        )
    if not batches.even_batches:
        raise RecipeError("training.arguments.accelerator_config: even_batches must stay true with several processes")
    if args.train_sampling_strategy == "batch_rebalance":
        raise RecipeError("training.arguments.train_sampling_strategy: batch_rebalance is for one process here")


@contextmanager
def whole_state(accelerator: Accelerator) -> Iterator[None]:
    """For the time of the block a model whose weights are sharded (FSDP2) is saved whole."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        yield
        return
    kept = plugin.state_dict_type
    plugin.set_state_dict_type("FULL_STATE_DICT")
    try:
        yield
    finally:
        plugin.set_state_dict_type(kept)


def placed(trainer: Trainer, batches: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The micro-batches of a step with the place of every row in the global batch (`place`), -1 for rows that only fill up.

    At the end of an epoch the sampler fills the batches of all processes up with rows from its beginning; there is nothing
    to learn and nothing held in those.
    """
    args, ends = trainer.args, trainer.accelerator.gradient_state.end_of_dataloader
    rows = len(trainer.train_dataset) if ends and not args.dataloader_drop_last else 0  # type: ignore[arg-type]
    last = len(batches) - 1
    return [
        place(batch, rows if number == last else 0, args.process_index, args.world_size)
        for number, batch in enumerate(batches)
    ]


def place(batch: dict[str, Tensor], rows: int, index: int, count: int) -> dict[str, Tensor]:
    """One of them.

    Args:
        batch: of this process; those of all processes are of one size.
        rows: of the corpus, where the batch ends an epoch; 0 elsewhere.
        index, count: of the processes.
    """
    size, device = len(batch["row"]), batch["row"].device
    place_B = torch.arange(index * size, (index + 1) * size, device=device)
    left = rows % (size * count)
    if count == 1 or left == 0:
        return {**batch, "place": place_B}
    fills_B = place_B >= left
    labels, output_mask = batch["labels"].clone(), batch["output_mask"].clone()
    labels[fills_B], output_mask[fills_B], place_B[fills_B] = IGNORED, 0, -1
    return {**batch, "labels": labels, "output_mask": output_mask, "place": place_B}


def shares(accelerator: Accelerator, corpus: int, held: int) -> tuple[float, float]:
    """Counts summed over processes, over their number: gradients are averaged, so each divides by its share."""
    counts = torch.tensor([[corpus, held]], device=accelerator.device)
    of_corpus, of_held = (float(count) / accelerator.num_processes for count in accelerator.gather(counts).sum(0))
    return max(of_corpus, 1.0), max(of_held, 1.0)
