"""The language model being trained, and its tokenizer: loading, adapters, snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adhere.errors import ModelError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LoraSection(BaseModel):
    """A LoRA adapter (PEFT) instead of full fine-tuning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank of the adapter")
    alpha: int = Field(32, ge=1, description="scale of the adapter; the update is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="dropout on the adapter's input")
    target_modules: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="which modules get an adapter: names, or all-linear"
    )


class ModelConfig(BaseModel):
    """Which model is trained, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a folder, a hub id, or `embedded` for the demo's SmolLM2-135M-Instruct")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    gguf_file: str | None = Field(None, description="name of a GGUF file in that folder or repository")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype the weights are held in; with training.bf16 the arithmetic is bfloat16 anyway"
    )
    lora: LoraSection | None = Field(None, description="train an adapter instead of all weights")
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="bitsandbytes quantisation of the frozen weights (QLoRA); needs `lora`"
    )
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model: only if you trust it"
    )

    @model_validator(mode="after")
    def _quantised_weights_stay(self) -> ModelConfig:
        if self.quantization and self.lora is None:
            raise ValueError("model.quantization needs model.lora: quantised weights cannot be trained themselves")
        return self


@dataclass
class Policy:
    """A causal language model with the tokenizer that belongs to it.

    `loaded_by` is what loads the same model again, in another process; None of a model that came loaded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    loaded_by: ModelConfig | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context_length(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 1_000_000)

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")


def load_policy(config: ModelConfig, seed: int = 0) -> Policy:
    """Load the model and tokenizer, and put the adapter on where one is asked for.

    Args:
        config: what to load.
        seed: seeds the adapter's initial weights.

    Raises:
        ModelError: no such folder, no weights in it or not all of them, no tokenizer, quantisation without an adapter, an
            adapter that fits no module, or a package that is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = locate(config)
    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.gguf_file:
        source["gguf_file"] = config.gguf_file
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        loaded: tuple[PreTrainedModel, dict[str, set[str]]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            path, dtype=config.dtype, quantization_config=_quantization(config), output_loading_info=True,
            **_safetensors(config), **source,
        )  # fmt: skip
    except Exception as error:  # of a damaged file transformers passes on whatever its parser raised
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"model.path {config.path!r} cannot be loaded: {reason.strip()}") from error
    model, missing = loaded[0], loaded[1]["missing_keys"]
    if missing:  # transformers has filled them with random numbers
        raise ModelError(
            f"model.path {config.path!r} does not hold all weights of its model: {len(missing)} are missing, for example "
            f"{min(missing)}; copy the model there again"
        )
    if config.lora is not None:
        model = add_adapter(model, peft_config(config.lora), seed=seed)
    return Policy(model, prepare_tokenizer(tokenizer), config)


def is_quantized(model: PreTrainedModel) -> bool:
    """True when its weights are held in integers (bitsandbytes, GPTQ, ...), whoever loaded it."""
    return bool(getattr(model, "is_quantized", False))


def add_adapter(model: PreTrainedModel, config: PeftConfig, *, seed: int = 0) -> PreTrainedModel:
    """Put a PEFT adapter on the model, with initial weights that depend on the seed alone.

    Raises:
        ModelError: the model has none of the modules that the adapter is for.
    """
    import torch
    from peft import get_peft_model, prepare_model_for_kbit_training

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if is_quantized(model):
            # Gradient checkpointing is for the trainer's arguments to choose.
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        try:
            return get_peft_model(model, config)  # type: ignore[return-value]
        except ValueError as error:
            raise ModelError(f"the adapter does not fit the model: {error}; see model.lora.target_modules") from error


def peft_config(section: LoraSection) -> PeftConfig:
    """The PEFT configuration of a recipe's `lora` section."""
    from peft import LoraConfig

    return LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=section.target_modules,
        task_type="CAUSAL_LM",
    )


def as_policy(
    model: str | PreTrainedModel | Policy,
    tokenizer: PreTrainedTokenizerBase | None = None,
    adapter: PeftConfig | None = None,
    seed: int = 0,
) -> Policy:
    """What a user hands to a trainer, as a policy.

    Raises:
        ModelError: a loaded model without its tokenizer, or a model that cannot be loaded.
    """
    if isinstance(model, str):
        model = load_policy(ModelConfig(path=model), seed)
        if tokenizer is not None:
            model = Policy(model.model, prepare_tokenizer(tokenizer), model.loaded_by)
    if not isinstance(model, Policy):
        if tokenizer is None:
            raise ModelError(
                "processing_class must be the tokenizer of the model; it is only optional for a hub id or folder"
            )
        model = Policy(model, prepare_tokenizer(tokenizer))
    if adapter is not None:
        model = Policy(add_adapter(model.model, adapter, seed=seed), model.tokenizer, model.loaded_by)
    return model


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a tokenizer without a pad token its end-of-sequence token for one.

    Every loss here is masked by length and not by token id, so the real end of a sequence keeps its label.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token, so no output could ever end.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json, otherwise no output can end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def snapshot(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that training changes, copied: the adapter alone where there is one."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def locate(config: ModelConfig) -> str:
    """A path that transformers understands; for a folder only once it holds what a model is made of.

    Raises:
        ModelError: no such folder, no safetensors weights or config.json in it, or quantisation where there can be none.
        DownloadError: the demo's model cannot be fetched.
    """
    if config.quantization and config.gguf_file:
        raise ModelError("model.quantization and model.gguf_file exclude each other: GGUF weights are de-quantised")
    if config.path == "embedded":
        from adhere.models.embedded import embedded_model

        return str(embedded_model())
    folder = Path(config.path).expanduser()
    if not folder.exists():
        if config.path.startswith((".", "/", "~")):
            raise ModelError(f"model.path {config.path!r} does not exist; give a folder or a hub id")
        return config.path
    if not folder.is_dir():
        raise ModelError(
            f"model.path {config.path!r} is a file; give the folder it is in (and model.gguf_file for GGUF)"
        )
    if not ((folder / config.gguf_file).is_file() if config.gguf_file else any(folder.glob("*.safetensors"))):
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise ModelError(
            f"model.path {config.path!r} holds no weights: looked for {config.gguf_file or '*.safetensors'}, found {found}; "
            "pickled weights (*.bin) are not read, convert them to safetensors first"
        )
    if not (config.gguf_file or (folder / "config.json").exists()):
        raise ModelError(f"model.path {config.path!r} holds no config.json, so it is not a transformers model")
    return str(folder)


def _safetensors(config: ModelConfig) -> dict[str, bool]:
    return {} if config.gguf_file else {"use_safetensors": True}


def _quantization(config: ModelConfig) -> object | None:
    if config.gguf_file:
        from transformers import GgufConfig

        return GgufConfig(dequantize=True)
    if config.quantization is None:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
