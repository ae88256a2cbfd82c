"""What a model is, told without loading its weights: enough to plan a run and to find out what would go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adhere.errors import ModelError
from adhere.models.policy import ModelConfig, locate, peft_config, prepare_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """A model's size and its tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    parameters: int
    trainable: int
    context_length: int
    vocabulary: int
    layers: int
    width: int


def outline(config: ModelConfig) -> ModelOutline:
    """Read a model's configuration and tokenizer, and look whether its weight files are whole.

    Raises:
        ModelError: no such folder, no weights or damaged ones in it, no tokenizer, an architecture that transformers
            does not know, or `lora.target_modules` that it does not have.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    path = locate(config)
    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.gguf_file:
        source["gguf_file"] = config.gguf_file
    check_weights(Path(path))
    try:
        described = AutoConfig.from_pretrained(path, **source)
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(described, trust_remote_code=config.trust_remote_code)
            parameters = sum(weight.numel() for weight in model.parameters())
            trainable = parameters
            if config.lora is not None:
                from peft import get_peft_model

                adapted = get_peft_model(model, peft_config(config.lora))
                trainable = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"model.path {config.path!r} cannot be used: {reason.strip()} (a folder, a hub id that can be reached, or "
            "`embedded`)"
        ) from error
    text = described.get_text_config()
    return ModelOutline(
        prepare_tokenizer(tokenizer),
        parameters,
        trainable,
        int(getattr(text, "max_position_embeddings", 0) or 1_000_000),
        int(text.vocab_size),
        int(getattr(text, "num_hidden_layers", 1)),
        int(getattr(text, "hidden_size", 1)),
    )


def check_weights(folder: Path) -> None:
    """Open every safetensors file of a folder; a file that was cut short does not open.

    Raises:
        ModelError: one does not open.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is damaged or no safetensors file ({error}); copy the model there again"
            ) from error
