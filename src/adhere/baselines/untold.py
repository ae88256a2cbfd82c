"""TRL sends word of every trainer that is made to its authors' hub. Nothing is sent from here unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants


@contextmanager
def untold() -> Iterator[None]:
    """No telemetry of the Hugging Face libraries for the time of the block."""
    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before
