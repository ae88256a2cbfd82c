"""The policy's weights as files, for an engine in another process or on another machine to read."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adhere.errors import SamplingError
from adhere.models.policy import is_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def has_adapter(model: PreTrainedModel) -> bool:
    """True when an adapter (PEFT) is what is trained."""
    return hasattr(model, "peft_config")


@contextmanager
def weights_folder(parent: Path | None) -> Iterator[Path]:
    """A folder of its own for one hand-over, whose name no other has; it is removed afterwards.

    Args:
        parent: where it is made; without it, among the temporary files of this machine.
    """
    name = f"adhere-{secrets.token_hex(6)}"
    folder = (parent or Path(tempfile.gettempdir())).expanduser().absolute() / name
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise SamplingError(
                f"{folder} cannot be made for the policy's weights ({error.strerror or error}): choose another "
                "sampling.server.folder"
            ) from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_adapter(model: PreTrainedModel, folder: Path) -> None:
    """The adapter alone, as PEFT writes it (safetensors)."""
    model.save_pretrained(folder)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """All weights, as transformers writes them (safetensors), with the tokenizer.

    Raises:
        SamplingError: they are quantised, which nothing else reads.
    """
    if is_quantized(model):
        raise SamplingError(
            "quantised weights cannot be handed over whole; with model.lora the adapter alone is, and the engine holds "
            "the model that it belongs to"
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
