"""Outputs drawn by a server: a real one on this machine, that samples the tiny model as vLLM would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from adhere.errors import SamplingError
from adhere.models.policy import LoraSection, add_adapter, peft_config
from adhere.records import Prompt, Sample
from adhere.sampling.backend import check_backend, sampler_for
from adhere.sampling.forced import forced_log_probabilities
from adhere.sampling.sampler import Sampler, draw_all
from adhere.sampling.sampler_config import SamplerConfig

EOS = 31
PROMPTS = [Prompt(0, "the cat"), Prompt(4, "a"), Prompt(2, "oh no, a fox"), Prompt(3, "hm")]


@dataclass
class Engine:
    """What stands behind the server. `answers` may change what it says, `refuses` is what makes it answer 400."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    names: list[str] = field(default_factory=lambda: ["tiny"])
    refuses: Callable[[dict[str, Any]], bool] = lambda body: False
    answers: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    routes: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)

    def __call__(self, asked: Any) -> Any:
        if asked.path == "/v1/models":
            return {"data": [{"id": name} for name in self.names]}
        if asked.path in self.routes:
            return self.routes[asked.path](asked.body)
        if asked.path != "/v1/completions":
            return self.reply(status=404, body={"detail": "Not Found"})
        if self.refuses(asked.body):
            return self.reply(status=400, body={"error": "not like this"})
        return self.answers(self._completion(asked.body))

    reply: Any = None

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        ids = list(self.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else list(prompt)
        generator = torch.Generator().manual_seed(body["seed"])
        output: list[int] = []
        said: list[float] = []
        while len(output) < body["max_tokens"] and output[-1:] != [EOS]:
            with torch.no_grad():
                log_p_V = self.model(torch.tensor([ids + output])).logits[0, -1].float().log_softmax(-1)
            output.append(int(torch.multinomial(log_p_V.exp(), 1, generator=generator)))
            said.append(float(log_p_V[output[-1]]))
        choice = {
            "text": self.tokenizer.decode(output, skip_special_tokens=True),
            "finish_reason": "stop" if output[-1] == EOS else "length",
            "token_ids": output,
            "prompt_token_ids": ids,
            "logprobs": {"token_logprobs": said, "tokens": [self.tokenizer.decode([token]) for token in output]},
        }
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": len(output)}}


@pytest.fixture
def engine(local_service: Any, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Engine:
    found = Engine(tiny_model, tiny_tokenizer, reply=local_service.reply)
    local_service.answer = found
    return found


@pytest.fixture
def config(local_service: Any) -> Callable[..., SamplerConfig]:
    def make(**server: Any) -> SamplerConfig:
        section = {"url": f"{local_service.url}/v1", "weights": "fixed", "attempts": 2, **server}
        return SamplerConfig(max_new_tokens=6, batch_size=3, backend="server", server=section)  # type: ignore[arg-type]

    return make


def _texts_only(answer: dict[str, Any]) -> dict[str, Any]:
    choice = answer["choices"][0]
    return {"choices": [{"text": choice["text"], "finish_reason": choice["finish_reason"]}], "usage": answer["usage"]}


def _drawn(open_sampler: AbstractContextManager[Sampler], each: int = 1) -> tuple[list[Sample], dict[str, float]]:
    with open_sampler as sampler:
        return list(draw_all(sampler, PROMPTS, seed=5, samples_per_prompt=each)), sampler.told()


def _forced(model: PreTrainedModel, samples: Sequence[Sample]) -> list[float]:
    return [
        float(part.sum()) for part in forced_log_probabilities(model, [(s.prompt_ids, s.output_ids) for s in samples])
    ]


@pytest.fixture
def adapted(tiny_model: LlamaForCausalLM) -> PreTrainedModel:
    return add_adapter(tiny_model, peft_config(LoraSection(r=2)), seed=1).eval()


# ---- what is drawn ------------------------------------------------------------------------------------------------------


def test_outputs_are_the_servers_own_tokens_with_the_policys_probability(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_model: LlamaForCausalLM, tiny_tokenizer: Any
) -> None:
    samples, told = _drawn(sampler_for(tiny_model, tiny_tokenizer, config()), each=3)
    assert len(samples) == 12
    assert [s.log_probability for s in samples] == pytest.approx(_forced(tiny_model, samples), abs=1e-4)
    for sample in samples:
        assert sample.finished == (sample.output_ids[-1] == EOS)
        assert sample.output == tiny_tokenizer.decode(sample.output_ids, skip_special_tokens=True)
        assert sample.log_importance == pytest.approx(0.0, abs=1e-4)  # the server has the policy's own weights
    assert len({s.output_ids for s in samples if s.prompt_index == 0}) > 1
    assert told == {}


def test_an_output_is_the_same_whatever_it_is_drawn_with(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_model: LlamaForCausalLM, tiny_tokenizer: Any
) -> None:
    how = config()
    together, _ = _drawn(sampler_for(tiny_model, tiny_tokenizer, how))
    alone, _ = _drawn(sampler_for(tiny_model, tiny_tokenizer, how.model_copy(update={"batch_size": 1})))
    assert [s.output_ids for s in together] == [s.output_ids for s in alone]


def test_everything_that_would_shape_the_distribution_is_sent_as_off(
    engine: Engine, local_service: Any, config: Callable[..., SamplerConfig], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    _drawn(sampler_for(tiny_model, tiny_tokenizer, config()))
    body = local_service.asked[-1].body
    off = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
           "frequency_penalty": 0.0}  # fmt: skip
    assert {name: body[name] for name in off} == off
    assert body["stop_token_ids"] == [EOS] and body["max_tokens"] == 6


def test_a_server_with_weights_of_its_own_is_corrected_by_importance(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_model: LlamaForCausalLM, tiny_tokenizer: Any
) -> None:
    """In the mean the weights are 1, and a weighted mean is the policy's."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        other = LlamaForCausalLM(tiny_model.config).eval()
    engine.model = other
    assert not config().untruncated
    samples, _ = _drawn(sampler_for(tiny_model, tiny_tokenizer, config()), each=4)
    here, there = _forced(tiny_model, samples), _forced(other, samples)
    assert [s.log_probability for s in samples] == pytest.approx(here, abs=1e-4)
    assert [s.log_importance for s in samples] == pytest.approx(
        [p - s for p, s in zip(here, there, strict=True)], abs=1e-4
    )


def test_a_server_that_hides_probabilities_cannot_be_corrected(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    engine.answers = _texts_only
    with pytest.raises(SamplingError, match=r"weights is fixed.*does not tell of every token"):
        _drawn(sampler_for(tiny_model, tiny_tokenizer, config()))


# ---- servers that are less able than vLLM -------------------------------------------------------------------------------


def test_text_alone_is_tokenised_again_and_the_log_says_so(
    engine: Engine, config: Callable[..., SamplerConfig], adapted: PreTrainedModel, tiny_tokenizer: Any
) -> None:
    engine.answers = _texts_only
    engine.refuses = lambda body: not isinstance(body["prompt"], str) or "top_k" in body
    engine.routes["/v1/load_lora_adapter"] = lambda body: engine.reply(body=b"Success")
    samples, told = _drawn(sampler_for(adapted, tiny_tokenizer, config(weights="adapter")))
    assert told == {"retokenised": 4, "round_trip_differs": 0.0}
    assert [s.log_probability for s in samples] == pytest.approx(_forced(adapted, samples), abs=1e-4)


def test_a_round_trip_that_gives_other_tokens_is_counted(
    engine: Engine, config: Callable[..., SamplerConfig], adapted: PreTrainedModel, tiny_tokenizer: Any
) -> None:
    def shortened(answer: dict[str, Any]) -> dict[str, Any]:
        told = _texts_only(answer)
        told["usage"]["completion_tokens"] += 2  # it drew two tokens more than the text has here
        return told

    engine.answers = shortened
    engine.routes["/v1/load_lora_adapter"] = lambda body: engine.reply(body=b"Success")
    _, told = _drawn(sampler_for(adapted, tiny_tokenizer, config(weights="adapter")))
    assert told["round_trip_differs"] == 1.0


# ---- weights ------------------------------------------------------------------------------------------------------------


def test_an_adapter_is_served_under_a_name_of_its_own_and_taken_back(
    engine: Engine,
    local_service: Any,
    config: Callable[..., SamplerConfig],
    adapted: PreTrainedModel,
    tiny_tokenizer: Any,
) -> None:
    loaded: list[dict[str, Any]] = []

    def load(body: dict[str, Any]) -> Any:
        loaded.append(body | {"files": sorted(path.name for path in Path(body["lora_path"]).iterdir())})
        return engine.reply(body=b"Success: LoRA adapter added successfully.")

    engine.routes |= {
        "/v1/load_lora_adapter": load,
        "/v1/unload_lora_adapter": lambda body: engine.reply(body=b"Success"),
    }
    _, told = _drawn(sampler_for(adapted, tiny_tokenizer, config(weights=None)))
    _drawn(sampler_for(adapted, tiny_tokenizer, config(weights=None)))
    first, second = loaded
    assert first["lora_name"] != second["lora_name"]
    assert "adapter_model.safetensors" in first["files"] and "model.safetensors" not in first["files"]
    asked = {a.body["model"] for a in local_service.asked if a.path == "/v1/completions" and a.body["max_tokens"] > 1}
    assert asked == {first["lora_name"], second["lora_name"]}
    unloaded = [a.body["lora_name"] for a in local_service.asked if a.path == "/v1/unload_lora_adapter"]
    assert unloaded == [first["lora_name"], second["lora_name"]]
    assert not Path(first["lora_path"]).exists()
    assert told["log_p_gap"] < 1e-3


def test_all_weights_are_read_again_by_the_server_and_what_it_had_cached_is_dropped(
    engine: Engine,
    local_service: Any,
    config: Callable[..., SamplerConfig],
    tiny_model: Any,
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    said: list[Any] = []

    def reload(body: dict[str, Any]) -> Any:
        said.append((body["method"], Path(body["kwargs"]["weights_path"])))
        engine.model = LlamaForCausalLM.from_pretrained(said[-1][1]).eval()
        return {"results": [None]}

    engine.routes |= {"/collective_rpc": reload, "/reset_prefix_cache": lambda body: {}}
    with torch.no_grad():
        engine.model = LlamaForCausalLM(tiny_model.config).eval()  # what it has before
    samples, _ = _drawn(sampler_for(tiny_model, tiny_tokenizer, config(weights=None, folder=tmp_path)))
    assert [s.log_probability for s in samples] == pytest.approx(_forced(tiny_model, samples), abs=1e-4)
    (method, folder) = said[0]
    assert method == "reload_weights" and folder.parent == tmp_path and not folder.exists()
    paths = [asked.path for asked in local_service.asked]
    assert paths.index("/collective_rpc") < paths.index("/reset_prefix_cache")


def test_a_server_that_keeps_its_old_weights_is_found_out(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    engine.routes |= {"/collective_rpc": lambda body: {"results": [None]}, "/reset_prefix_cache": lambda body: {}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        engine.model = LlamaForCausalLM(tiny_model.config).eval()
        with torch.no_grad():
            engine.model.lm_head.weight.mul_(4.0)
    with pytest.raises(
        SamplingError, match=r"nats a token more or less likely than the policy.*does not draw from the policy"
    ):
        _drawn(sampler_for(tiny_model, tiny_tokenizer, config(weights="reload")))


# ---- said before a minute is spent --------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_said_at_once(tiny_tokenizer: Any) -> None:
    how = SamplerConfig(backend="server", server={"url": "http://127.0.0.1:9/v1"})  # type: ignore[arg-type]
    with pytest.raises(
        SamplingError, match=r"127\.0\.0\.1:9/v1 cannot be reached.*start it, or correct sampling\.server\.url"
    ):
        check_backend(how, tiny_tokenizer, adapted=True)


def test_a_model_that_is_not_served_is_said_with_those_that_are(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_tokenizer: Any
) -> None:
    with pytest.raises(SamplingError, match=r"it serves tiny, not 'large'"):
        check_backend(config(model="large"), tiny_tokenizer, adapted=False)


def test_another_tokenizer_is_said(engine: Engine, config: Callable[..., SamplerConfig], tiny_tokenizer: Any) -> None:
    def other(answer: dict[str, Any]) -> dict[str, Any]:
        choice = answer["choices"][0]
        return {**answer, "choices": [{**choice, "prompt_token_ids": choice["prompt_token_ids"][1:]}]}

    engine.answers = other
    with pytest.raises(SamplingError, match=r"has another tokenizer than the policy"):
        check_backend(config(), tiny_tokenizer, adapted=False)


@pytest.mark.parametrize(
    ("adapted", "advice"), [(True, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"), (False, "VLLM_SERVER_DEV_MODE")]
)
def test_a_server_that_takes_no_new_weights_is_said(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_tokenizer: Any, adapted: bool, advice: str
) -> None:
    with pytest.raises(SamplingError, match=advice):
        check_backend(config(weights=None), tiny_tokenizer, adapted=adapted)


def test_a_way_for_weights_that_does_not_fit_what_is_trained_is_said(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_tokenizer: Any
) -> None:
    for way, adapted in (("adapter", False), ("reload", True)):
        with pytest.raises(SamplingError, match=f"weights is {way}"):
            check_backend(config(weights=way), tiny_tokenizer, adapted=adapted)


def test_an_output_that_does_not_come_stops_the_draw(
    engine: Engine, config: Callable[..., SamplerConfig], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    engine.refuses = lambda body: body["max_tokens"] > 1
    with pytest.raises(SamplingError, match=r"an output did not come: 400.*not like this.*--resume"):
        _drawn(sampler_for(tiny_model, tiny_tokenizer, config()))


# ---- the section --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"backend": "server"}, "needs a section server"),
        ({"server": {"url": "http://localhost:8000/v1"}}, "section server needs backend server"),
        ({"backend": "vllm", "temperature": 0.7}, "draws from the model itself"),
        ({"backend": "server", "server": {"url": "http://localhost/v1"}, "top_p": 0.9}, "draws from the model itself"),
        ({"backend": "vllm", "vllm": {"arguments": {"generation_config": "auto"}}}, "may not hold generation_config"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplerConfig(**section)


def test_where_a_server_is_decides_nothing_about_the_samples(config: Callable[..., SamplerConfig]) -> None:
    assert config().settings() == config(url="http://elsewhere:1/v1", concurrency=2).settings()
    assert config().settings() != config(weights="reload").settings()
    assert "backend" not in SamplerConfig().settings()
    assert dataclasses.is_dataclass(Sample)
