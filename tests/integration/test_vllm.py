"""A real vLLM, as a server and in one process: it draws from the policy, with the weights that it was given last.

Not part of the other tests: `make test-vllm` sets up vLLM in an environment of its own and runs this. ADHERE_VLLM is the Python
of that environment; ADHERE_VLLM_URL, where it is set, a server that runs already with the demo's model.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adhere.models.policy import Policy
    from adhere.records import Sample

VLLM = os.environ.get("ADHERE_VLLM", "")
URL = os.environ.get("ADHERE_VLLM_URL", "")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not (VLLM or URL), reason="needs vLLM in an environment of its own: make test-vllm"),
]
OPTIONS = ["--dtype", "bfloat16", "--max-model-len", "256", "--max-num-seqs", "32", "--enable-lora", "--max-lora-rank", "16",
           "--enforce-eager"]  # fmt: skip
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip
START = 900
"""Seconds for vLLM to start on a busy machine with two cores."""
PROMPTS = ("The weather today is", "Dear Sir or Madam,", "def add(a, b):", "Q: What is 2 + 2?\nA:")


@pytest.fixture(scope="module")
def model_folder() -> Path:
    from adhere.models.embedded import embedded_model

    return embedded_model()


@pytest.fixture(scope="module")
def url(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server with the demo's model, that takes adapters and weights while it runs."""
    if URL:
        yield URL
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_folder), "--port", str(port)]
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", *OPTIONS], env={**os.environ, **ENVIRONMENT}, stdout=stream, stderr=stream
        )
    try:
        for _ in range(START):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def policy(model_folder: Path) -> Policy:
    from adhere.models.policy import ModelConfig, load_policy

    policy = load_policy(ModelConfig(path=str(model_folder), dtype="bfloat16"))
    policy.model.eval()
    return policy


def _drawn(policy: Policy, url: str, each: int, length: int, **server: Any) -> tuple[list[Sample], dict[str, float]]:
    from adhere.records import Prompt
    from adhere.sampling.backend import sampler_for
    from adhere.sampling.sampler import draw_all
    from adhere.sampling.sampler_config import SamplerConfig

    config = SamplerConfig(max_new_tokens=length, backend="server", server={"url": url, **server})  # type: ignore[arg-type]
    prompts = [Prompt(number, text) for number, text in enumerate(PROMPTS)]
    with sampler_for(policy.model, policy.tokenizer, config) as sampler:
        return list(draw_all(sampler, prompts, seed=1, samples_per_prompt=each)), sampler.told()


def _gap(model: PreTrainedModel, samples: list[Sample]) -> float:
    """Nats a token between what the samples say and what the model says of them."""
    from adhere.sampling.forced import forced_log_probabilities

    here = forced_log_probabilities(model, [(s.prompt_ids, s.output_ids) for s in samples])
    gaps = [abs(float(p.sum()) - s.log_probability) for p, s in zip(here, samples, strict=True)]
    return sum(gaps) / sum(len(s.output_ids) for s in samples)


IN_PROCESS = """
import json, pathlib, sys
from adhere.models.policy import LoraSection, ModelConfig, Policy, add_adapter, load_policy, peft_config
from adhere.records import Prompt
from adhere.sampling.backend import sampler_for
from adhere.sampling.sampler import draw_all
from adhere.sampling.sampler_config import SamplerConfig
import torch

if __name__ == "__main__":
    policy = load_policy(ModelConfig(path=sys.argv[1], dtype="bfloat16"))
    policy.model.eval()
    vllm = {"max_model_len": 256, "dtype": "bfloat16", "arguments": {"enforce_eager": True, "max_num_seqs": 32}}
    config = SamplerConfig(max_new_tokens=24, backend="vllm", vllm=vllm)
    prompts = [Prompt(number, text) for number, text in enumerate(json.loads(sys.argv[2]))]
    def drawn(model):
        with sampler_for(model, policy.tokenizer, config) as sampler:
            samples = list(draw_all(sampler, prompts, seed=1, samples_per_prompt=2))
            return {"outputs": len(samples), **sampler.told()}
    told = [drawn(policy.model)]
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.02)
    told.append(drawn(policy.model))
    policy = load_policy(ModelConfig(path=sys.argv[1], dtype="bfloat16"))
    model = add_adapter(policy.model, peft_config(LoraSection(r=8)), seed=0).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    told.append(drawn(model))
    pathlib.Path(sys.argv[3]).write_text(json.dumps(told))  # vLLM writes to both streams
"""


@pytest.mark.skipif(not VLLM, reason="needs vLLM in an environment of its own: make test-vllm")
def test_vllm_in_one_process_draws_from_the_policy_as_it_changes(model_folder: Path, tmp_path: Path) -> None:
    """All weights, other weights, an adapter; the sampler itself compares the first outputs with the policy each time."""
    script, found = tmp_path / "draw.py", tmp_path / "told.json"
    script.write_text(IN_PROCESS, encoding="utf-8")
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [VLLM, str(script), str(model_folder), json.dumps(PROMPTS), str(found)],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(source)}, capture_output=True, text=True, timeout=3 * START,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(found.read_text(encoding="utf-8"))
    print(told)
    assert [one["outputs"] for one in told] == [8, 8, 8]
    assert all(one["log_p_gap"] < 0.1 for one in told)


def test_what_the_server_draws_and_says_is_the_policys(policy: Policy, url: str) -> None:
    """First tokens have the policy's frequencies; tokens are those drawn; an end is the end-of-sequence token."""
    import torch
    from scipy.stats import chisquare

    from adhere.sampling.backend import check_backend
    from adhere.sampling.sampler import end_ids
    from adhere.sampling.sampler_config import SamplerConfig

    how = SamplerConfig(backend="server", server={"url": url, "weights": "fixed"})  # type: ignore[arg-type]
    check_backend(how, policy.tokenizer, adapted=False)
    samples, _ = _drawn(policy, url, each=100, length=1, weights="fixed")
    with torch.no_grad():
        p_V = policy.model(torch.tensor([samples[0].prompt_ids])).logits[0, -1].float().softmax(-1)
    of_first = Counter(s.output_ids[0] for s in samples if s.prompt_index == samples[0].prompt_index)
    often = [int(token) for token in p_V.topk(5).indices]
    observed, hoped = [of_first[token] for token in often], [100 * float(p_V[token]) for token in often]
    assert chisquare([*observed, 100 - sum(observed)], [*hoped, 100 - sum(hoped)]).pvalue > 0.001
    longer, _ = _drawn(policy, url, each=4, length=48, weights="fixed")
    assert max(abs(s.log_importance) / len(s.output_ids) for s in longer) < 0.1  # bfloat16, there and here
    ends = end_ids(policy.model, policy.tokenizer)
    for sample in longer:
        assert sample.finished == (sample.output_ids[-1] in ends)
        assert sample.finished or len(sample.output_ids) == 48
        assert not set(sample.output_ids[:-1]) & set(ends)
    again, _ = _drawn(policy, url, each=4, length=48, weights="fixed")
    same = sum(one.output_ids == other.output_ids for one, other in zip(longer, again, strict=True))
    print(json.dumps({"finished": sum(s.finished for s in longer), "drawn again the same": same, "of": len(longer)}))
    assert same >= len(longer) // 2  # a seed for each; the last bits depend on what is computed together


def test_an_adapter_is_swapped_while_the_server_runs(policy: Policy, url: str) -> None:
    import torch

    from adhere.models.policy import LoraSection, Policy, add_adapter, peft_config

    model = add_adapter(policy.model, peft_config(LoraSection(r=8)), seed=0).eval()
    adapted = Policy(model, policy.tokenizer)
    found = []
    for step in range(2):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(step)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        samples, told = _drawn(adapted, url, each=2, length=24)
        found.append(samples)
        print(json.dumps({"adapter": step, **told, "gap": round(_gap(model, samples), 4)}))
        assert _gap(model, samples) < 0.1
    assert _gap(model, found[0]) > 2 * _gap(model, found[1])  # what the first drew is not the second's


def test_all_weights_are_swapped_while_the_server_runs(policy: Policy, url: str) -> None:
    import torch

    samples, _ = _drawn(policy, url, each=2, length=24, weights="reload")
    before = _gap(policy.model, samples)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.02)
    later, told = _drawn(policy, url, each=2, length=24, weights="reload")
    after = _gap(policy.model, later)
    print(json.dumps({"before": round(before, 4), "after": round(after, 4), **told}))
    assert before < 0.1 and after < 0.1
    assert _gap(policy.model, samples) > 2 * after
