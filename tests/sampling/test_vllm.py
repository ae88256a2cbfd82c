"""Outputs drawn by vLLM in this process, with an engine of the same shape in its place (the real one: tests/integration)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import adhere.sampling.vllm as ours
from adhere.errors import SamplingError
from adhere.models.policy import LoraSection, add_adapter, peft_config
from adhere.records import Prompt, Sample
from adhere.sampling.backend import check_backend, sampler_for
from adhere.sampling.forced import forced_log_probabilities
from adhere.sampling.sampler import draw_all
from adhere.sampling.sampler_config import SamplerConfig

EOS = 31
PROMPTS = [Prompt(0, "the cat"), Prompt(4, "a"), Prompt(2, "oh no, a fox")]


class Engine:
    """Samples a model that it reads from a folder, as `vllm.LLM` does."""

    started: ClassVar[list[Engine]] = []

    def __init__(self, **settings: Any) -> None:
        if settings.get("tensor_parallel_size") == 7:
            raise ValueError("7 GPUs cannot share this model\nmore")
        self.settings = settings
        self.calls: list[tuple[str, Any]] = []
        self.llm_engine = SimpleNamespace(
            remove_lora=lambda identity: self.calls.append(("remove_lora", identity)),
            engine_core=SimpleNamespace(shutdown=lambda: self.calls.append(("shutdown", None))),
        )
        self.read(settings["model"])
        Engine.started.append(self)

    def read(self, folder: str) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self.calls.append((method, kwargs))
        self.read(kwargs["weights_path"])

    def reset_prefix_cache(self) -> None:
        self.calls.append(("reset_prefix_cache", None))

    def generate(self, prompts: Any, how: Any, lora_request: Any, use_tqdm: bool) -> list[Any]:
        model = self.model
        if lora_request is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(
                LlamaForCausalLM.from_pretrained(self.settings["model"]), lora_request.path
            )
        return [
            self._one(model.eval(), asked["prompt_token_ids"], each) for asked, each in zip(prompts, how, strict=True)
        ]

    def _one(self, model: Any, prompt: list[int], how: Any) -> Any:
        generator, ids, said = torch.Generator().manual_seed(how.seed), [], []
        while len(ids) < how.max_tokens and ids[-1:] != [EOS]:
            with torch.no_grad():
                log_p_V = model(torch.tensor([prompt + ids])).logits[0, -1].float().log_softmax(-1)
            ids.append(int(torch.multinomial(log_p_V.exp(), 1, generator=generator)))
            said.append({ids[-1]: SimpleNamespace(logprob=float(log_p_V[ids[-1]]))})
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=said)])


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules: dict[str, Any] = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request")}
    modules["vllm"].LLM, modules["vllm"].SamplingParams = Engine, lambda **settings: SimpleNamespace(**settings)
    modules["vllm.lora.request"].LoRARequest = lambda name, identity, path: SimpleNamespace(
        name=name, identity=identity, path=path
    )
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Engine, "started", [])
    ours._engines.clear()
    yield
    ours._engines.clear()


def _drawn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **section: Any) -> list[Sample]:
    config = SamplerConfig(max_new_tokens=6, backend="vllm", vllm=section or None)  # type: ignore[arg-type]
    with sampler_for(model, tokenizer, config) as sampler:
        samples = list(draw_all(sampler, PROMPTS, seed=5, samples_per_prompt=2))
        assert sampler.told()["log_p_gap"] < 1e-3
    return samples


def test_outputs_are_those_of_the_policy_as_it_changes_and_one_engine_draws_them_all(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    for _ in range(2):
        samples = _drawn(tiny_model, tiny_tokenizer)
        forced = forced_log_probabilities(tiny_model, [(s.prompt_ids, s.output_ids) for s in samples])
        assert [s.log_probability for s in samples] == pytest.approx([float(part.sum()) for part in forced], abs=1e-4)
        assert all(s.finished == (s.output_ids[-1] == EOS) and s.log_importance == 0 for s in samples)
        with torch.no_grad():
            tiny_model.lm_head.weight.mul_(3.0)
    (engine,) = Engine.started
    assert [call for call, _ in engine.calls] == ["reload_weights", "reset_prefix_cache"]
    assert engine.settings["generation_config"] == "vllm"  # or it takes a temperature from the model's own settings
    assert not Path(engine.settings["model"]).exists()


def test_another_engine_takes_the_place_of_the_first_one(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    for length in (30, 40):
        _drawn(tiny_model, tiny_tokenizer, max_model_len=length)
    first, second = Engine.started
    assert (first.calls, second.calls) == ([("shutdown", None)], [])


def test_an_adapter_goes_to_the_engine_with_an_identity_of_its_own(
    tiny_policy_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = add_adapter(
        LlamaForCausalLM.from_pretrained(tiny_policy_folder), peft_config(LoraSection(r=2)), seed=1
    ).eval()
    drawn = []
    for step in range(2):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.fill_(0.2 * (step + 1))
        drawn.append(_drawn(model, tiny_tokenizer))
    (engine,) = Engine.started
    assert engine.settings["model"] == str(tiny_policy_folder) and engine.settings["max_lora_rank"] == 8
    identities = [identity for call, identity in engine.calls if call == "remove_lora"]
    assert len(set(identities)) == 2 and len(engine.calls) == 2
    assert drawn[0] != drawn[1]


def test_an_engine_that_keeps_old_weights_is_found_out(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    _drawn(tiny_model, tiny_tokenizer)
    monkeypatch.setattr(Engine, "collective_rpc", lambda *_, **__: None)
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(4.0)
    with pytest.raises(SamplingError, match=r"vLLM finds its outputs .* nats a token more or less likely"):
        _drawn(tiny_model, tiny_tokenizer)


def test_an_engine_that_does_not_start_is_said_in_a_line(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(
        SamplingError, match=r"vLLM cannot be started.*sampling\.vllm\): 7 GPUs cannot share this model$"
    ):
        _drawn(tiny_model, tiny_tokenizer, tensor_parallel_size=7)


def test_what_vllm_cannot_do_is_said_before_anything_is_spent(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "find_spec", lambda name: object())
    with pytest.raises(SamplingError, match=r"does not quantise them as model\.quantization"):
        check_backend(SamplerConfig(backend="vllm"), tiny_tokenizer, adapted=True, quantized=True)
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(SamplingError, match=r"pip install 'adhere\[vllm\]'"):
        check_backend(SamplerConfig(backend="vllm"), tiny_tokenizer, adapted=False)
