"""A policy with NADO is a causal language model whose every number is that of the guided distribution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import ModelError
from adhere.evaluation.perplexity import ScoredSequence, token_losses
from adhere.functional.target import log_q_star, log_tilt
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.records import Prompt, Sample
from adhere.sampling.guided import NadoGuide
from adhere.sampling.guided_model import GuidedForCausalLM, _Read

Draw = Callable[..., list[Sample]]
PROMPTS = [Prompt(0, "the cat"), Prompt(1, "a"), Prompt(2, ""), Prompt(3, "oh no, a fox")]
IDS_BT = torch.tensor([[19, 7, 4, 26, 2, 0, 19], [14, 7, 27, 3, 3, 8, 1]])


def _nado(model: LlamaForCausalLM, shape: str = "frozen", seed: int = 0) -> Nado:
    """One that says something else of every token and every prefix."""
    config = NadoConfig.model_validate({"shape": shape, "width": 8, "heads": 2, "rank": 4})
    nado = build_nado(config, model.get_input_embeddings().weight.detach(), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in nado.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    return nado.freeze()


def _log_q(model: LlamaForCausalLM, ids_T: Tensor, prompt: int, nados: list[tuple[Nado, float]]) -> Tensor:
    """log q* [T, V] after every token of one sequence, by full passes and the formula."""
    ids_1T, ones_1T = ids_T[None], torch.ones_like(ids_T)[None]
    with torch.no_grad():
        features, total = hidden_states(model, ids_1T, ones_1T), torch.zeros(len(ids_T), 32)
        for nado, target in nados:
            state = nado(ids_1T if nado.reads_tokens else features, ones_1T)
            log_r = logsigmoid(nado.next_logits(state.value_BT[0], state.key_BTR[0]))
            total += log_tilt(log_r[None], state.value_BT[0, prompt - 1 : prompt].sigmoid(), target)[0]
        return log_q_star(model(ids_1T).logits[0], total)


@pytest.mark.parametrize("shape", ["frozen", "own"])
@pytest.mark.parametrize("target", [1.0, 0.9])
def test_its_logits_are_the_log_probabilities_of_q_star(
    tiny_model: LlamaForCausalLM, shape: str, target: float
) -> None:
    nados = [(_nado(tiny_model, shape, 1), target), (_nado(tiny_model, shape, 2), target)]
    guided = GuidedForCausalLM(tiny_model, nados)
    told = guided(IDS_BT, prompt_length=torch.tensor([3, 2])).logits
    for row, prompt in enumerate((3, 2)):
        torch.testing.assert_close(told[row], _log_q(tiny_model, IDS_BT[row], prompt, nados))
    torch.testing.assert_close(told.exp().sum(-1), torch.ones(2, 7))
    bare = torch.log_softmax(tiny_model(IDS_BT).logits, -1)
    assert (told - bare).abs().max() > 0.1


def test_padding_on_the_right_changes_nothing(tiny_model: LlamaForCausalLM) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 0.9)])
    padded = torch.nn.functional.pad(IDS_BT, (0, 3))
    mask = torch.nn.functional.pad(torch.ones_like(IDS_BT), (0, 3))
    length = torch.tensor([3, 2])
    whole = guided(IDS_BT, prompt_length=length).logits
    torch.testing.assert_close(guided(padded, attention_mask=mask, prompt_length=length).logits[:, :7], whole)


@pytest.mark.parametrize("target", [1.0, 0.9])
@pytest.mark.parametrize("shape", ["frozen", "own"])
def test_generating_from_it_is_sampling_with_a_guide(
    tiny_model: LlamaForCausalLM, draw: Draw, shape: str, target: float
) -> None:
    nado, reference = _nado(tiny_model, shape), FrozenModel(tiny_model)
    guided = GuidedForCausalLM(tiny_model, [(nado, target)])
    ours = draw(PROMPTS, model=guided, each=4)
    theirs = draw(PROMPTS, guide=lambda mask_BT: NadoGuide([(nado, target)], reference, mask_BT), each=4)
    assert [sample.output_ids for sample in ours] == [sample.output_ids for sample in theirs]
    assert [sample.output_ids for sample in ours] != [sample.output_ids for sample in draw(PROMPTS, each=4)]
    assert all(sample.log_importance == 0.0 for sample in ours)  # they are samples of this very model
    for sample, other in zip(ours, theirs, strict=True):
        assert sample.log_probability == pytest.approx(other.log_probability - other.log_importance, abs=1e-4)


@pytest.mark.parametrize("shape", ["frozen", "own"])
def test_rows_that_have_ended_leave_and_the_others_are_written_as_without_that(
    tiny_model: LlamaForCausalLM, draw: Draw, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nado, reference, left = _nado(tiny_model, shape), FrozenModel(tiny_model), []
    keep = _Read.keep
    monkeypatch.setattr(_Read, "keep", lambda self, kept_B: left.append(len(kept_B)) or keep(self, kept_B))
    how: dict[str, Any] = {"each": 6, "max_new_tokens": 40}
    tiny_model.generation_config.eos_token_id = [3, 5, 8, 31]  # or nearly all are cut before they end
    ours = draw(PROMPTS, model=GuidedForCausalLM(tiny_model, [(nado, 0.9)]), **how)
    assert len(left) >= 2
    theirs = draw(PROMPTS, guide=lambda mask_BT: NadoGuide([(nado, 0.9)], reference, mask_BT), **how)
    assert [sample.output_ids for sample in ours] == [sample.output_ids for sample in theirs]


def test_the_probability_of_what_it_wrote_is_that_of_reading_it_again(tiny_model: LlamaForCausalLM, draw: Draw) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 0.9)])
    samples = draw(PROMPTS, model=guided)
    read = token_losses(guided, [ScoredSequence([*s.prompt_ids, *s.output_ids], len(s.prompt_ids)) for s in samples])
    assert [-sample.log_probability for sample in samples] == pytest.approx(read.nats_N.tolist(), abs=1e-3)


def test_the_loss_of_labels_is_the_guided_one(tiny_model: LlamaForCausalLM) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 1.0)])
    told = guided(IDS_BT, labels=IDS_BT)
    expected = -told.logits[:, :-1].gather(2, IDS_BT[:, 1:, None]).mean()
    torch.testing.assert_close(told.loss, expected)


def test_log_w_is_computed_a_part_at_a_time(tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 0.9)])
    whole = guided(IDS_BT).logits
    monkeypatch.setattr("adhere.sampling.guided_model.NUMBERS_AT_ONCE", 3 * 32)
    torch.testing.assert_close(guided(IDS_BT).logits, whole)


def test_only_the_positions_asked_for_are_told(tiny_model: LlamaForCausalLM) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 1.0)])
    torch.testing.assert_close(guided(IDS_BT, logits_to_keep=2).logits, guided(IDS_BT).logits[:, -2:])


def test_nado_stays_in_float32_when_the_policy_does_not(tiny_model: LlamaForCausalLM) -> None:
    nado = _nado(tiny_model)
    guided = GuidedForCausalLM(tiny_model, [(nado, 1.0)]).to(torch.bfloat16)
    assert guided.dtype == torch.bfloat16
    assert guided(IDS_BT).logits.dtype == torch.float32
    assert nado.value.weight.dtype == torch.float32


def test_nothing_of_it_can_be_trained(tiny_model: LlamaForCausalLM) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 1.0)])
    assert not any(weight.requires_grad for weight in guided.parameters())
    assert not guided.training


def test_it_is_not_saved_as_a_model(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its run folder is it"):
        GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 1.0)]).save_pretrained(tmp_path)


def test_embeddings_and_foreign_caches_are_refused(tiny_model: LlamaForCausalLM) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 1.0)])
    with pytest.raises(ValueError, match="takes input_ids"):
        guided(inputs_embeds=torch.zeros(1, 2, 16))
    cache = tiny_model(IDS_BT, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="one that this model filled"):
        guided(IDS_BT[:, :1], attention_mask=torch.ones(2, 8, dtype=torch.long), past_key_values=cache)


def test_harness_calls_leave_it_as_it_is(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    guided = GuidedForCausalLM(tiny_model, [(_nado(tiny_model), 1.0)])
    before = guided(IDS_BT).logits
    guided.tie_weights()
    guided.eval()
    torch.testing.assert_close(guided(IDS_BT).logits, before)
    assert guided.get_output_embeddings() is tiny_model.lm_head
