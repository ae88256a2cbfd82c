"""Outputs are samples of the model itself, each with its probability, each the same whatever it is drawn together with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerFast

from adhere.models.frozen import FrozenModel
from adhere.models.policy import LoraSection, add_adapter, peft_config
from adhere.records import Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler

EOS = 31
PROMPTS = [
    Prompt(0, "the cat", "pets"),
    Prompt(4, "a", "pets"),
    Prompt(9, "", "none"),
    Prompt(2, "oh no, a fox", "wild"),
    Prompt(3, "hm", "x"),
]
Draw = Callable[..., list[Sample]]


def _log_p(model: PreTrainedModel, sample: Sample, temperature: float = 1.0) -> Tensor:
    """Log-softmax at every output position [N, V], from one pass over the whole sequence."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*sample.prompt_ids, *sample.output_ids]])).logits[0]
    return (logits_TV[len(sample.prompt_ids) - 1 : -1].double() / temperature).log_softmax(-1)


def _sum(log_p_NV: Tensor, sample: Sample) -> float:
    return float(log_p_NV[torch.arange(len(sample.output_ids)), list(sample.output_ids)].sum())


# ---- samples of p -------------------------------------------------------------------------------------------------------


def test_samples_have_the_frequencies_of_the_model(draw: Draw, tiny_model: LlamaForCausalLM) -> None:
    """Chi-square over the outputs of at most two tokens; the rare ones are taken together."""
    count = 6000
    samples = draw([PROMPTS[0]], seed=11, each=count, max_new_tokens=2, batch_size=2000)
    drawn = Counter(sample.output_ids for sample in samples)
    prompt = list(samples[0].prompt_ids)
    with torch.no_grad():
        first_V = tiny_model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        second_VV = tiny_model(torch.tensor([[*prompt, v] for v in range(32)])).logits[:, -1].softmax(-1)
    expected = {(EOS,): count * first_V[EOS].item()}
    for v in range(31):
        expected |= {(v, w): count * (first_V[v] * second_VV[v, w]).item() for w in range(32)}
    assert drawn.keys() <= expected.keys()
    often = [output for output, number in expected.items() if number >= 10]
    assert len(often) > 80
    observed = [drawn[output] for output in often]
    hoped = [expected[output] for output in often]
    test = chisquare([*observed, count - sum(observed)], [*hoped, count - sum(hoped)])
    assert test.pvalue > 0.01


@pytest.mark.parametrize("held", ["full", "bfloat16", "adapter"])
def test_the_log_probability_is_the_sum_of_log_softmax_over_one_pass(
    draw: Draw, tiny_model: LlamaForCausalLM, held: str
) -> None:
    """EOS counts as any token does; the pass has no cache, no padding and no `generate`."""
    model: PreTrainedModel = tiny_model
    if held == "adapter":
        model = add_adapter(tiny_model, peft_config(LoraSection(r=2)), seed=1)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.3 * torch.randn_like(weight))
    with FrozenModel(model, torch.bfloat16 if held == "bfloat16" else None).lent() as still:
        samples = draw(PROMPTS, each=4, model=still)
        for sample in samples:
            near = 0.3 if held == "bfloat16" else 1e-4
            assert sample.log_probability == pytest.approx(_sum(_log_p(still, sample), sample), abs=near)
            assert sample.log_importance == 0.0
    assert {sample.finished for sample in samples} == {True, False}


@pytest.mark.parametrize("how", [{"temperature": 0.7}, {"temperature": 1.4}, {"top_k": 4}, {"top_p": 0.7}], ids=str)
def test_what_is_not_sampled_from_p_carries_its_importance(
    draw: Draw, tiny_model: LlamaForCausalLM, how: dict[str, Any]
) -> None:
    """log_importance = log p − log s, and log p stays that of the model itself."""
    for sample in draw(PROMPTS, each=3, **how):
        log_p_NV, log_s_NV = _log_p(tiny_model, sample), _log_p(tiny_model, sample, how.get("temperature", 1.0))
        if "top_k" in how:
            smallest_N1 = log_s_NV.topk(how["top_k"]).values[:, -1:]
            log_s_NV = log_s_NV.masked_fill(log_s_NV < smallest_N1, -torch.inf).log_softmax(-1)
        if "top_p" in how:
            ordered_NV, order_NV = log_s_NV.exp().sort(descending=True)
            kept_NV = torch.zeros_like(ordered_NV).scatter(
                1, order_NV, (ordered_NV.cumsum(1) - ordered_NV < how["top_p"]).double()
            )
            log_s_NV = log_s_NV.masked_fill(kept_NV == 0, -torch.inf).log_softmax(-1)
        assert sample.log_probability == pytest.approx(_sum(log_p_NV, sample), abs=1e-4)
        assert sample.log_importance == pytest.approx(_sum(log_p_NV, sample) - _sum(log_s_NV, sample), abs=2e-4)
        assert sample.log_importance != 0.0


def test_generation_settings_that_come_with_a_model_do_not_bend_its_samples(
    draw: Draw, tiny_model: LlamaForCausalLM
) -> None:
    """Many models on the hub bring a repetition penalty; `generate` would take it up, and p would be another."""
    plain = draw(PROMPTS, each=2)
    own = GenerationConfig(
        repetition_penalty=1.8, no_repeat_ngram_size=1, suppress_tokens=[7], min_new_tokens=9,
        do_sample=True, temperature=0.2, top_k=2, max_length=3, num_return_sequences=2, output_logits=True,
    )  # fmt: skip
    tiny_model.generation_config = own
    assert draw(PROMPTS, each=2) == plain
    assert tiny_model.generation_config is own


# ---- where outputs end --------------------------------------------------------------------------------------------------


def test_an_output_ends_at_its_first_eos_which_is_an_id_but_no_text(
    draw: Draw, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = draw(PROMPTS, each=8)
    finished = [sample for sample in samples if sample.finished]
    assert 5 < len(finished) < len(samples) - 5
    for sample in samples:
        assert sample.finished == (EOS in sample.output_ids)
        assert (
            sample.output_ids.index(EOS) == len(sample.output_ids) - 1
            if sample.finished
            else len(sample.output_ids) == 12
        )
        letters = sample.output_ids[:-1] if sample.finished else sample.output_ids
        assert sample.output == "".join(tiny_tokenizer.convert_ids_to_tokens(letters))
    assert any(sample.output_ids == (EOS,) and sample.output == "" for sample in draw([PROMPTS[1]], each=200))


def test_an_output_also_ends_where_the_model_says_that_it_does(draw: Draw, tiny_model: LlamaForCausalLM) -> None:
    """A chat model ends a turn by one token and a text by another; its generation settings name both."""
    tiny_model.generation_config = GenerationConfig(eos_token_id=[3, 4])
    samples = draw(PROMPTS, each=8)
    for sample in samples:
        first = next((place for place, token in enumerate(sample.output_ids) if token in (3, 4, EOS)), None)
        assert sample.finished == (first is not None)
        assert len(sample.output_ids) == (12 if first is None else first + 1)
    assert {sample.output_ids[-1] for sample in samples if sample.finished} == {3, 4, EOS}


def test_an_eos_inside_a_prompt_is_read_and_ends_nothing(draw: Draw, tiny_model: LlamaForCausalLM) -> None:
    """Also where EOS pads the shorter prompts of the batch."""
    prompts = [Prompt(0, "a<eos>b<eos>"), Prompt(1, "<eos>"), Prompt(2, "some longer prompt")]
    samples = draw(prompts, each=3)
    assert {sample.prompt_ids for sample in samples} >= {(0, EOS, 1, EOS), (EOS,)}
    assert max(len(sample.output_ids) for sample in samples) == 12
    for sample in samples:
        assert sample.log_probability == pytest.approx(_sum(_log_p(tiny_model, sample), sample), abs=1e-4)


def test_an_empty_prompt_is_one_token(draw: Draw) -> None:
    (sample,) = draw([Prompt(0, "")])
    assert sample.prompt_ids == (EOS,) and sample.prompt == ""


def test_samples_say_where_they_come_from(draw: Draw) -> None:
    samples = draw(PROMPTS, each=2)
    assert {(s.prompt_index, s.prompt, s.domain) for s in samples} == {(p.index, p.text, p.domain) for p in PROMPTS}
    assert Counter(s.replicate for s in samples) == {0: 5, 1: 5}


@pytest.mark.parametrize(
    "how", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"best_of": 2}], ids=str
)
def test_settings_out_of_range_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig(**how)


def test_only_what_neither_heats_nor_truncates_samples_p() -> None:
    assert SamplingConfig().untruncated
    for how in ({"temperature": 0.9}, {"top_p": 0.9}, {"top_k": 9}):
        assert not SamplingConfig(**how).untruncated


# ---- the model afterwards -----------------------------------------------------------------------------------------------


class _Fails(LogitsProcessor):
    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        raise KeyboardInterrupt


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_model_is_left_as_it_was_also_when_drawing_is_cut_short(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, training: bool, adapter: bool, fails: bool
) -> None:
    model: PreTrainedModel = add_adapter(tiny_model, peft_config(LoraSection(dropout=0.5))) if adapter else tiny_model
    own, head, modes = tiny_model.generation_config, tiny_model.lm_head, []
    model.train(training)
    tiny_model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    sampler = TransformersSampler(
        model, tiny_tokenizer, SamplingConfig(max_new_tokens=2), (lambda _: _Fails()) if fails else None
    )
    (batch,) = sampler.plan(PROMPTS)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            sampler.draw(batch, 0)
    else:
        sampler.draw(batch, 0)
    assert {module.training for module in model.modules()} == {training}
    assert modes and not any(modes)
    assert tiny_model.generation_config is own
    strided_BTD, contiguous = torch.zeros(2, 3, 16)[:, ::2], []
    head.register_forward_pre_hook(lambda _, args: contiguous.append(args[0].is_contiguous()))
    head(strided_BTD)
    assert contiguous == [False]  # nothing of the sampler's is left that would copy it
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    model(torch.tensor([[1, 2]])).logits.sum().backward()
