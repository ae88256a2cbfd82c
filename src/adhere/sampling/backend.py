"""Which sampler a configuration means. Everything that draws outputs to learn from takes its sampler here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adhere.sampling.sampler import Sampler, SamplingConfig, TransformersSampler
from adhere.sampling.sampler_config import SamplerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def sampler_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SamplingConfig
) -> Iterator[Sampler]:
    """The sampler of a policy as it stands; an engine elsewhere is given its weights for the time of the block.

    Args:
        model: held still in the block.
        config: how; a `SamplerConfig` also says by what.

    Raises:
        SamplingError: when it draws, an engine that fails or serves another model.
    """
    backend = config.backend if isinstance(config, SamplerConfig) else "transformers"
    if backend == "transformers":
        yield TransformersSampler(model, tokenizer, config)
        return
    assert isinstance(config, SamplerConfig)
    if backend == "server":
        from adhere.sampling.served import served_sampler

        with served_sampler(model, tokenizer, config) as served:
            yield served
    else:
        from adhere.sampling.vllm import vllm_sampler

        with vllm_sampler(model, tokenizer, config) as here:
            yield here


def check_backend(
    config: SamplingConfig, tokenizer: PreTrainedTokenizerBase, *, adapted: bool, quantized: bool = False
) -> None:
    """Everything about what draws that shows before the model is loaded.

    Args:
        adapted: whether an adapter is what is trained.
        quantized: whether the weights below it are integers.

    Raises:
        SamplingError: a server that cannot be used, or vLLM that is not there.
    """
    if not isinstance(config, SamplerConfig) or config.backend == "transformers":
        return
    if config.backend == "server":
        from adhere.sampling.served import check_server

        assert config.server is not None
        check_server(config.server, tokenizer, adapted, [int(tokenizer.eos_token_id)])
    else:
        from adhere.sampling.vllm import check_vllm

        check_vllm(quantized=quantized)
