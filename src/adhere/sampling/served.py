"""Draw outputs from a server that has the policy's weights (vLLM), or that is corrected for not having them.

The policy's weights are handed over before the first output: an adapter under a name of its own, so that nothing cached of
an older one is used, or all weights again. The first outputs are then read by the policy here: a server whose
probabilities are others is serving another model, and the run stops.

Training needs the tokens that were drawn. A server that returns only text is understood by tokenising it again, which now
and then gives other tokens than were drawn: how often is in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adhere.data.tokenization import encode_prompt
from adhere.errors import SamplingError
from adhere.records import Prompt, Sample
from adhere.sampling.completions import Answer, Manners, request
from adhere.sampling.forced import forced_log_probabilities, require_same_model
from adhere.sampling.handover import has_adapter, weights_folder, write_adapter, write_model
from adhere.sampling.sampler import Batch, context_length, end_ids, plan_batches, seed_of
from adhere.sampling.server import Server

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adhere.sampling.sampler_config import SamplerConfig, ServerConfig, Weights

PROBE = 'The naïve café\'s 12,345 visitors wrote: ‘déjà vu’ — 漢字, {"key": [1, 2]}\n\n\tEnd.'
"""A text that hardly two tokenisers cut alike."""


@contextmanager
def served_sampler(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SamplerConfig
) -> Iterator[ServedSampler]:
    """A sampler for the policy as it stands; what the server was given for it is taken back afterwards."""
    assert config.server is not None
    server = Server(config.server)
    with ExitStack() as given:
        given.callback(server.close)
        yield ServedSampler(model, tokenizer, config, server, given)


def check_server(config: ServerConfig, tokenizer: PreTrainedTokenizerBase, adapted: bool, ends: Sequence[int]) -> None:
    """Everything about a server that shows before the model is loaded.

    Args:
        adapted: whether an adapter is what is trained.
        ends: tokens that end an output.

    Raises:
        SamplingError: it cannot be reached, serves another model, cuts texts into other tokens, or takes no new weights.
    """
    server = Server(config)
    try:
        _acquainted(server, tokenizer, ends)
        way = weights_of(config, adapted)
        if way != "fixed":
            server.require_route(way)
    finally:
        server.close()


def weights_of(config: ServerConfig, adapted: bool) -> Weights:
    """How the server gets the weights. Raises SamplingError for a way that does not fit what is trained."""
    way = config.weights or ("adapter" if adapted else "reload")
    if way == "adapter" and not adapted:
        raise SamplingError(
            "sampling.server.weights is adapter, and all weights are trained: train an adapter (model.lora), or choose "
            "reload"
        )
    if way == "reload" and adapted:
        raise SamplingError(
            "sampling.server.weights is reload, and an adapter is trained: choose adapter, which sends it alone"
        )
    return way


@dataclass(slots=True)
class _Counts:
    drawn: int = 0
    retokenised: int = 0
    differing: int = 0
    gap: float | None = None


class ServedSampler:
    """Samples with a server.

    Args:
        model: the policy as it is now, held still while this is used.
        tokenizer: its tokenizer.
        config: how, and which server.
        server: that server.
        given: gets what must be undone when sampling is over.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: SamplerConfig,
        server: Server,
        given: ExitStack,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self._server, self._given = server, given
        self._ends = end_ids(model, tokenizer)
        self._served: tuple[str, Manners] | None = None
        self._counts = _Counts()

    def plan(self, prompts: Sequence[Prompt], samples_per_prompt: int = 1) -> list[Batch]:
        """As `TransformersSampler.plan`: the same batches."""
        return plan_batches(context_length(self.model), self.tokenizer, self.config, prompts, samples_per_prompt)

    def draw(self, batch: Batch, seed: int) -> list[Sample]:
        """Sample one batch, in the order of its items.

        Raises:
            SamplingError: the server failed, or what it serves is not the policy.
        """
        if self._served is None:
            self._served = self._hand_over()
        name, manners = self._served
        bodies = [
            request(
                manners, name, ids if manners.takes_ids else prompt.text, self.config.max_new_tokens,
                seed_of(seed, prompt, replicate), self._ends,
            )
            for (prompt, replicate), ids in zip(batch.items, batch.prompt_ids, strict=True)
        ]  # fmt: skip
        answers = self._server.complete(bodies)
        read = [self._read(*row) for row in zip(batch.items, batch.prompt_ids, answers, strict=True)]
        self._compare([one for one in read if not one.retokenised])
        return self._samples(read)

    def told(self) -> dict[str, float]:
        """How far the probabilities are apart here and there; what had to be tokenised again, and came out otherwise."""
        counts = self._counts
        told = {} if counts.gap is None else {"log_p_gap": round(counts.gap, 4)}
        if counts.retokenised:
            told |= {"retokenised": counts.retokenised, "round_trip_differs": counts.differing / counts.retokenised}
        return told

    # ---- weights ----------------------------------------------------------------------------------------------------

    def _hand_over(self) -> tuple[str, Manners]:
        server = self._server
        name, manners = _acquainted(server, self.tokenizer, self._ends)
        way = weights_of(server.config, has_adapter(self.model))
        if way == "fixed":
            return name, manners
        folder = self._given.enter_context(weights_folder(server.config.folder))
        if way == "reload":
            write_model(self.model, self.tokenizer, folder)
            server.reload(folder)
            return name, manners
        write_adapter(self.model, folder)
        server.load_adapter(folder.name, folder)
        self._given.callback(server.unload_adapter, folder.name)
        return folder.name, manners

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def _read(self, item: tuple[Prompt, int], prompt_ids: tuple[int, ...], answer: Answer) -> _Read:
        """An output's tokens as they were drawn, or as far as its text tells."""
        prompt, replicate = item
        seen = answer.prompt_ids if answer.prompt_ids is not None else answer.read
        if seen not in (None, prompt_ids, len(prompt_ids)):
            raise SamplingError(
                f"sampling server: prompt {prompt.index} ({prompt.text[:40]!r}…) has {len(prompt_ids)} tokens here and other "
                f"ones there ({seen}): it serves a model with another tokenizer"
            )
        self._counts.drawn += 1
        ids, again = answer.token_ids, answer.token_ids is None
        if ids is None:
            ids = self._tokenised(prompt, prompt_ids, answer.text)
            self._counts.retokenised += 1
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        if end is not None:
            ids = ids[: end + 1]
        elif answer.finished:
            ids = (*ids, int(self.tokenizer.eos_token_id))
        if again:
            drawn = len(answer.tokens) if answer.tokens is not None else answer.written
            # Some servers count the token that ends, others do not.
            if drawn is not None and drawn not in ({len(ids), len(ids) - 1} if answer.finished else {len(ids)}):
                self._counts.differing += 1
        said = answer.log_probabilities
        log_s = sum(said) if said is not None and len(said) == len(ids) else None
        sample = Sample(
            prompt_index=prompt.index,
            replicate=replicate,
            prompt=prompt.text,
            output=str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)),
            prompt_ids=prompt_ids,
            output_ids=ids,
            finished=ids[-1:] != () and ids[-1] in self._ends,
            log_probability=0.0,
            domain=prompt.domain,
        )
        return _Read(sample, log_s, again)

    def _tokenised(self, prompt: Prompt, prompt_ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        """As a corpus row is cut (`data.tokenization`): what follows the prompt's tokens, where the whole begins so."""
        whole = tuple(encode_prompt(self.tokenizer, prompt.text + text))
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _samples(self, read: Sequence[_Read]) -> list[Sample]:
        """With log p of the policy: as the server told it, else read here."""
        fixed = self.config.draws_from_another
        if fixed and any(one.log_s is None for one in read):
            raise SamplingError(
                "sampling.server.weights is fixed, so outputs are weighed by how likely the server found them, and it does "
                "not tell of every token (logprobs, the end's included): use vLLM, or weights: adapter or reload"
            )
        unknown = [one for one in read if fixed or one.retokenised or one.log_s is None]
        forced = iter(
            forced_log_probabilities(self.model, [(o.sample.prompt_ids, o.sample.output_ids) for o in unknown])
        )
        samples = []
        for one in read:
            known = not (fixed or one.retokenised or one.log_s is None)
            log_p = one.log_s if known and one.log_s is not None else float(next(forced).sum())
            weight = log_p - one.log_s if fixed and one.log_s is not None else 0.0
            samples.append(replace(one.sample, log_probability=log_p, log_importance=weight))
        return samples

    def _compare(self, read: Sequence[_Read]) -> None:
        """Read the first outputs here as well. Raises SamplingError when the policy finds them another probability."""
        known = [one for one in read if one.log_s is not None]
        if self._counts.gap is not None or not known or self.config.draws_from_another:
            return
        self._counts.gap = require_same_model(
            self.model,
            [(one.sample.prompt_ids, one.sample.output_ids) for one in known],
            [one.log_s for one in known if one.log_s is not None],
            "the sampling server",
            "it serves another model or other weights (sampling.server.model), or its log-probabilities are not the model's "
            "own (vLLM: --logprobs-mode raw_logprobs)",
        )


@dataclass(slots=True)
class _Read:
    """An output: `log_s` is its log-probability where it was drawn, None where that is not told."""

    sample: Sample
    log_s: float | None
    retokenised: bool


def _acquainted(server: Server, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> tuple[str, Manners]:
    """The model to ask for and how. Raises SamplingError when the server cannot be used or cuts texts otherwise."""
    name = server.model()
    ids = encode_prompt(tokenizer, PROBE)
    manners = server.manners(name, PROBE, ids, ends)
    answer = server.complete([request(manners, name, PROBE, 1, 0, ends)])[0]
    expected = tuple(tokenizer(PROBE)["input_ids"])
    if answer.prompt_ids not in (None, expected) or answer.read not in (None, len(expected)):
        count = answer.read if answer.prompt_ids is None else len(answer.prompt_ids)
        raise SamplingError(
            f"sampling server {server.config.url}: model {name!r} has another tokenizer than the policy: it cuts a text into "
            f"{count} tokens that has {len(expected)} here, or into other ones; serve the model that model.path names"
        )
    return name, manners
