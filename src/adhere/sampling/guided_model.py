"""A policy and its NADO as one causal language model: its next-token distribution is the guided one.

    log q(v | prefix) = log_softmax(logits of the policy + Σ_k log W_k)          (method.md §3, last line)

`NadoGuide` guides `generate` alone; this guides every use of a model: likelihoods, perplexities and benchmarks are then
those of the model that is deployed, not of the bare policy.

    B batch · T time · V vocabulary · D width of the language model · N positions taken together
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from adhere.errors import ModelError
from adhere.functional.target import log_tilt
from adhere.models.nado import Nado, NadoState
from adhere.sampling.decoding import ALSO_READ

NUMBERS_AT_ONCE = 2**24
"""Of log W, in float32: 64 MiB."""


class GuidedForCausalLM(PreTrainedModel, GenerationMixin):
    """A frozen policy whose next-token distribution is tilted by NADO, as any causal language model of transformers.

    NADO reads the policy's own last hidden states (or the tokens), so the policy runs once.

    Args:
        policy: held still; its weights are shared, not copied.
        nados: (auxiliary model, target δ) of each constraint. They stay in float32 whatever becomes of the policy.

    `forward` takes what the policy's takes, and `prompt_length` [B]: how many tokens of each row (padding on the right)
    are the prompt. Only targets below 1 need it, whose tilt depends on the satisfaction r expected after the prompt.
    Without it the prompt is what a cache was filled with first (as `generate` does), and without a cache the first token.

    Its logits are log-probabilities, in float32.
    """

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, policy: PreTrainedModel, nados: Sequence[tuple[Nado, float]]) -> None:
        super().__init__(policy.config)
        self.policy = policy
        self.policy.requires_grad_(False)
        self.generation_config = policy.generation_config
        self._nados = [(nado.freeze(), target) for nado, target in nados]  # a list: `.to(dtype)` must leave them alone
        self.train(False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        prompt_length: Tensor | None = None,
        **keywords: Any,
    ) -> CausalLMOutputWithPast:
        """Guided log-probabilities [B, T, V] of the next token (of the last `logits_to_keep` positions, 0 for all)."""
        if input_ids is None:
            raise ValueError("a guided model takes input_ids: what it reads are tokens, not embeddings")
        keywords.pop("output_hidden_states", None)
        keywords.pop("return_dict", None)
        seen = getattr(past_key_values, ALSO_READ, None)
        told = self.policy(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=True,
            **keywords,
        )
        with torch.no_grad():
            read = self._read(input_ids, attention_mask, told.hidden_states[-1], seen)
            if read.satisfaction is None:
                filled = past_key_values is not None  # a cache that a prompt is read into
                read.satisfaction = [self._satisfaction(state, read.mask_BT, prompt_length, filled)
                                     for state in read.states]  # fmt: skip
            logits_BTV = self._guided(told.logits, read)
        if told.past_key_values is not None:
            setattr(told.past_key_values, ALSO_READ, read)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=logits_BTV.shape[-1])
        return CausalLMOutputWithPast(
            loss=cast("torch.FloatTensor | None", loss),
            logits=cast("torch.FloatTensor", logits_BTV),
            past_key_values=told.past_key_values,
        )

    def _read(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None, hidden_BTD: Tensor, seen: _Read | None
    ) -> _Read:
        """What NADO says of every prefix so far."""
        if seen is not None:
            hidden_BTD = torch.cat([seen.hidden_BTD, hidden_BTD], 1)
            input_ids_BT = torch.cat([seen.input_ids_BT, input_ids_BT], 1)
        mask_BT = torch.ones_like(input_ids_BT) if attention_mask_BT is None else attention_mask_BT
        if mask_BT.shape != input_ids_BT.shape:
            raise ValueError(
                f"the attention mask must have one number for each token so far: got {tuple(mask_BT.shape)} for "
                f"{tuple(input_ids_BT.shape)} tokens; a cache must be one that this model filled from its first token on"
            )
        states = [nado(input_ids_BT if nado.reads_tokens else hidden_BTD, mask_BT) for nado, _ in self._nados]
        return _Read(input_ids_BT, hidden_BTD, mask_BT, states, None if seen is None else seen.satisfaction)

    def _satisfaction(self, state: NadoState, mask_BT: Tensor, prompt_length_B: Tensor | None, filled: bool) -> Tensor:
        """r [B]: the satisfaction expected after the prompt."""
        first_B = mask_BT.int().argmax(1)
        if prompt_length_B is not None:
            at_B = first_B + prompt_length_B.to(first_B.device) - 1
        elif filled:
            at_B = torch.full_like(first_B, mask_BT.shape[1] - 1)
        else:
            at_B = first_B
        return state.value_BT.gather(1, at_B[:, None]).squeeze(1).sigmoid()

    def _guided(self, logits_BTV: Tensor, read: _Read) -> Tensor:
        batch, kept, vocabulary = logits_BTV.shape
        logits_NV = logits_BTV.reshape(-1, vocabulary)
        row_N = torch.arange(batch, device=logits_NV.device).repeat_interleave(kept)
        guided_NV = torch.empty(logits_NV.shape, dtype=torch.float32, device=logits_NV.device)
        step = max(1, NUMBERS_AT_ONCE // vocabulary)
        assert read.satisfaction is not None
        for start in range(0, len(logits_NV), step):
            part = slice(start, start + step)
            tilted_NV = logits_NV[part].float()
            for (nado, target), state, satisfaction_B in zip(self._nados, read.states, read.satisfaction, strict=True):
                value_N = state.value_BT[:, -kept:].reshape(-1)[part]
                key_NR = state.key_BTR[:, -kept:].reshape(-1, state.key_BTR.shape[-1])[part]
                log_r_NV = logsigmoid(nado.next_logits(value_N, key_NR))
                tilted_NV = tilted_NV + log_tilt(log_r_NV, satisfaction_B[row_N[part]], target)
            guided_NV[part] = torch.log_softmax(tilted_NV, -1)
        return guided_NV.view(batch, kept, vocabulary)

    # ---- as the policy ----------------------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The policy's."""
        return self.policy.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The policy's."""
        return cast("nn.Module", self.policy.get_output_embeddings())

    def tie_weights(self, *args: Any, **keywords: Any) -> None:
        """Nothing to do: the policy's are tied already."""

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: it would save neither the policy nor NADO in a form that anything reads."""
        raise ModelError(
            "a guided model is not saved as one: its run folder is it, with the policy in model/ and NADO in guidance/"
        )


class _Read:
    """What NADO has read of a batch so far; travels with the policy's cache."""

    def __init__(
        self,
        input_ids_BT: Tensor,
        hidden_BTD: Tensor,
        mask_BT: Tensor,
        states: list[NadoState],
        satisfaction: list[Tensor] | None,
    ) -> None:
        self.input_ids_BT, self.hidden_BTD, self.mask_BT = input_ids_BT, hidden_BTD, mask_BT
        self.states, self.satisfaction = states, satisfaction

    def keep(self, kept_B: Tensor) -> None:
        """Keep these rows alone."""
        self.input_ids_BT, self.hidden_BTD, self.mask_BT = (
            each[kept_B] for each in (self.input_ids_BT, self.hidden_BTD, self.mask_BT)
        )
        self.states = [NadoState(*(each[kept_B] for each in state)) for state in self.states]
        self.satisfaction = self.satisfaction and [each[kept_B] for each in self.satisfaction]
