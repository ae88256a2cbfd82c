"""A step that went wrong, whole on disk: `faults/step-000012/` in the run folder, so that it can be looked at and replayed.

`fault.json` says what was seen; `batch-0.safetensors`, `batch-1.safetensors`, … hold the micro-batches as the trainer got
them, token ids and masks, with `row`: the numbers of their corpus rows (-1 for sampled outputs).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from adhere.errors import RunFolderError
from adhere.files import whole_folder, write_json_atomic

FAULTS = "faults"


@dataclass(frozen=True, slots=True)
class StepFault:
    """What was wrong with a step.

    Attributes:
        step: number of the step, from 1, as progress shows it.
        what: the fault in words.
        losses: of the micro-batches.
        gradient_norm: before clipping.
        kl: nats per token.
        counts: corpus tokens and held tokens that the two parts of the loss were divided by.
        guidance: iteration and policy step of the guidance in force; None without any.
    """

    step: int
    what: str
    losses: Sequence[float]
    gradient_norm: float
    kl: float
    learning_rate: float
    counts: tuple[float, float] | None = None
    guidance: tuple[int, int] | None = None
    process: int = 0
    rows: list[list[int]] = field(default_factory=list)


def save_step(run_folder: Path, fault: StepFault, batches: Sequence[Mapping[str, Tensor]]) -> Path:
    """Write a step, whole or not at all; returns its folder.

    Raises:
        RunFolderError: it cannot be written.
    """
    from safetensors.torch import save_file

    other = f"-process-{fault.process}" if fault.process else ""
    folder = run_folder / FAULTS / f"step-{fault.step:06d}{other}"
    with whole_folder(folder) as part:
        for number, batch in enumerate(batches):
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in batch.items()},
                part / f"batch-{number}.safetensors",
            )
        write_json_atomic(part / "fault.json", _finite(asdict(fault)))
    return folder


def read_step(folder: Path) -> tuple[StepFault, list[dict[str, Tensor]]]:
    """What `save_step` wrote.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        told = json.loads((folder / "fault.json").read_text(encoding="utf-8"))
        numbers = {key: float(told[key]) for key in ("gradient_norm", "kl")}
        pairs = {key: told[key] and tuple(told[key]) for key in ("counts", "guidance")}
        fault = StepFault(**{**told, **numbers, **pairs, "losses": [float(loss) for loss in told["losses"]]})
        return fault, [load_file(folder / f"batch-{number}.safetensors") for number in range(len(fault.losses))]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunFolderError(f"{folder} holds no step that can be read: {error}") from error


def _finite(value: object) -> object:
    """JSON has no NaN: such a number is written as the text that `float` reads."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
