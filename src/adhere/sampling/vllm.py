"""Draw outputs with vLLM in this process. Nothing else imports vllm.

The engine is started once and kept; the policy's weights go to it before every draw of a refresh: an adapter under an
identity of its own, or all weights again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adhere.errors import SamplingError
from adhere.records import Prompt, Sample
from adhere.sampling.forced import require_same_model
from adhere.sampling.handover import has_adapter, weights_folder, write_adapter, write_model
from adhere.sampling.sampler import Batch, context_length, end_ids, plan_batches, seed_of

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adhere.sampling.sampler_config import SamplerConfig

_INSTALL = "sampling.backend: vllm needs vLLM: pip install 'adhere[vllm]'; or use backend server, or transformers"
_identities = itertools.count(1)
_engines: dict[str, Any] = {}
"""The one engine of this process, by what it was started with."""


def check_vllm(*, quantized: bool) -> None:
    """Raises SamplingError when vLLM is not installed, or could not have the policy's weights."""
    if find_spec("vllm") is None:
        raise SamplingError(_INSTALL)
    if quantized:
        raise SamplingError(
            "sampling.backend: vllm starts from the weights in model.path and does not quantise them as model.quantization "
            "does, so it would draw from another model: use backend transformers, or leave model.quantization out"
        )


@contextmanager
def vllm_sampler(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SamplerConfig
) -> Iterator[VllmSampler]:
    """A sampler for the policy as it stands."""
    with ExitStack() as given:
        yield VllmSampler(model, tokenizer, config, given)


class VllmSampler:
    """Samples with vLLM here.

    Args:
        model: the policy as it is now, held still while this is used.
        tokenizer: its tokenizer.
        config: how.
        given: gets what must be undone when sampling is over.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SamplerConfig, given: ExitStack
    ) -> None:
        self.model, self.tokenizer, self.config, self._given = model, tokenizer, config, given
        self._ends = end_ids(model, tokenizer)
        self._ready: tuple[Any, Any] | None = None  # the engine, and the adapter to ask for
        self._gap: float | None = None

    def plan(self, prompts: Sequence[Prompt], samples_per_prompt: int = 1) -> list[Batch]:
        """As `TransformersSampler.plan`: the same batches."""
        return plan_batches(context_length(self.model), self.tokenizer, self.config, prompts, samples_per_prompt)

    def draw(self, batch: Batch, seed: int) -> list[Sample]:
        """Sample one batch, in the order of its items.

        Raises:
            SamplingError: vLLM cannot be started with the policy, or draws from something else.
        """
        from vllm import SamplingParams

        if self._ready is None:
            self._ready = self._hand_over()
        engine, adapter = self._ready
        how = [
            SamplingParams(
                max_tokens=self.config.max_new_tokens, seed=seed_of(seed, prompt, replicate), temperature=1.0, top_p=1.0,
                top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, logprobs=0,
                stop_token_ids=self._ends, detokenize=False,
            )
            for prompt, replicate in batch.items
        ]  # fmt: skip
        asked = [{"prompt_token_ids": list(ids)} for ids in batch.prompt_ids]
        drawn = engine.generate(asked, how, lora_request=adapter, use_tqdm=False)
        samples = [self._sample(*row) for row in zip(batch.items, batch.prompt_ids, drawn, strict=True)]
        if self._gap is None:
            outputs, told = (
                [(one.prompt_ids, one.output_ids) for one in samples],
                [one.log_probability for one in samples],
            )
            self._gap = require_same_model(self.model, outputs, told, "vLLM", "look at sampling.vllm.arguments")
        return samples

    def told(self) -> dict[str, float]:
        """How far the probabilities are apart there and in transformers, in nats a token."""
        return {} if self._gap is None else {"log_p_gap": round(self._gap, 4)}

    def _sample(self, item: tuple[Prompt, int], prompt_ids: tuple[int, ...], drawn: Any) -> Sample:
        prompt, replicate = item
        output = drawn.outputs[0]
        ids = tuple(int(token) for token in output.token_ids)
        log_p = sum(told[token].logprob for token, told in zip(ids, output.logprobs, strict=True))
        return Sample(
            prompt_index=prompt.index,
            replicate=replicate,
            prompt=prompt.text,
            output=str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)),
            prompt_ids=prompt_ids,
            output_ids=ids,
            finished=bool(ids) and ids[-1] in self._ends,
            log_probability=float(log_p),
            domain=prompt.domain,
        )

    def _hand_over(self) -> tuple[Any, Any]:
        folder = self._given.enter_context(weights_folder(None))
        if not has_adapter(self.model):
            write_model(self.model, self.tokenizer, folder)
            return _engine_with(self.model, folder, self.config), None
        from vllm.lora.request import LoRARequest

        write_adapter(self.model, folder)
        identity = next(_identities)
        engine = _engine_below(self.model, self.config)
        self._given.callback(engine.llm_engine.remove_lora, identity)
        return engine, LoRARequest(folder.name, identity, str(folder))


def _engine_with(model: PreTrainedModel, folder: Path, config: SamplerConfig) -> Any:
    """An engine that has the weights in a folder: started from them, or made to read them."""
    key = _key(model.config.to_json_string(), config)
    if key not in _engines:
        return _started(key, {"model": str(folder)}, config)
    engine = _engines[key]
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    engine.reset_prefix_cache()  # it was filled by the weights before
    return engine


def _engine_below(model: PreTrainedModel, config: SamplerConfig) -> Any:
    """An engine with the model that the adapter is on."""
    path = model.config.name_or_path
    if not path:
        raise SamplingError(
            "sampling.backend: vllm with an adapter needs a model that was loaded from a folder or the hub: vLLM reads it there"
        )
    adapters: dict[str, Any] = getattr(model, "peft_config", {})
    ranks = [int(adapter.r) for adapter in adapters.values()]
    key = _key(path, config)
    return _engines.get(key) or _started(
        key, {"model": path, "enable_lora": True, "max_lora_rank": _rank(ranks)}, config
    )


def _started(key: str, model: dict[str, Any], config: SamplerConfig) -> Any:
    """Start the engine, in the place of one that was started otherwise. What it draws is p: no settings of the model."""
    try:
        from vllm import LLM
    except ImportError as error:
        raise SamplingError(f"{_INSTALL} ({error})") from error
    while _engines:
        _engines.popitem()[1].llm_engine.engine_core.shutdown()  # else its processes, and their memory, stay
    section = config.vllm
    own = {} if section is None else section.model_dump(exclude={"arguments"}, exclude_none=True)
    more = {} if section is None else section.arguments
    try:
        engine = LLM(**{"gpu_memory_utilization": 0.3, **own, **more, **model, "generation_config": "vllm"})
    except (ValueError, TypeError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SamplingError(
            f"vLLM cannot be started with this model (sampling.vllm): {reason.strip()[:400]}"
        ) from error
    _engines[key] = engine
    return engine


def _key(model: str, config: SamplerConfig) -> str:
    section = {} if config.vllm is None else config.vllm.model_dump()
    return hashlib.sha256(json.dumps([model, section], sort_keys=True, default=str).encode()).hexdigest()


def _rank(ranks: Sequence[int]) -> int:
    """vLLM knows these ranks only."""
    return next((known for known in (8, 16, 32, 64, 128, 256, 320, 512) if known >= max(ranks)), max(ranks))
