"""What works between the matrix products of the fused head: the choice, and whether it can be had here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from adhere.errors import RecipeError

FusedHead = Literal["torch", "triton"]

FUSED_HEAD = (
    "what makes loss and gradient of the logits: torch, or triton (one kernel, on an NVIDIA GPU). No GPU has run the kernel "
    "yet: it agrees with torch in Triton's interpreter and compiles for sm_80 and sm_90, and is not the default until "
    "benchmarks/head.py shows that it is faster"
)
"""The help of the setting."""


def check_fused_head(choice: str, device: str) -> None:
    """Raises RecipeError where the choice cannot be had.

    Args:
        device: kind of the device that trains, as torch calls it.
    """
    if choice != "triton":
        return
    lacking = [f"an NVIDIA GPU (training runs on {device!r} here)"] * (device != "cuda")
    lacking += ["the package triton (pip install triton)"] * (find_spec("triton") is None)
    if lacking:
        raise RecipeError(
            f"training.fused_head: triton needs {' and '.join(lacking)}; leave the setting out, and torch does the same"
        )
