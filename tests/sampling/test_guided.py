"""Decode-time guidance draws from q*, computed here once more from full passes without a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from adhere.functional.target import log_q_star, log_tilt
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import LoraSection, add_adapter, peft_config
from adhere.records import Prompt, Sample
from adhere.sampling.guided import NadoGuide

V, D = 32, 16
PROMPTS = [Prompt(0, "the cat"), Prompt(1, "a"), Prompt(2, ""), Prompt(3, "oh no, a fox")]
IDS = [[19, 7, 4, 26, 2, 0, 19], [0], [14, 7, 27]]  # prompts of three lengths
OUTPUTS = [[3, 17, 5, 9], [8, 8, 31, 31], [26, 1, 30, 22]]  # the second one has ended early
Draw = Callable[..., list[Sample]]
Constraints = Sequence[tuple[Nado, float]]


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _nado(reference: FrozenModel, shape: str = "frozen", seed: int = 0) -> Nado:
    """One that says something else of every token and every prefix."""
    config = NadoConfig.model_validate({"shape": shape, "width": 8, "heads": 2, "rank": 4})
    nado = build_nado(config, reference.embeddings_VD, seed)
    with torch.no_grad():
        for number, weight in enumerate(nado.parameters()):
            weight.copy_(0.5 * _normal(*weight.shape, seed=100 * seed + number))
    return nado.freeze()


def _banning(token: int, base_rate: float = 0.9) -> Nado:
    """An exact R for the oracle that one token violates and any other satisfies, from embeddings that tell that one apart."""
    embeddings_VD = 0.1 * _normal(V, D, seed=8)
    embeddings_VD[:, 0] = 0.0
    embeddings_VD[token, 0] = 1.0
    nado = build_nado(NadoConfig(shape="own", width=8, heads=2, rank=1), embeddings_VD, seed=0)
    nado.start_at(base_rate)
    with torch.no_grad():
        nado.bias.weight[0, 0] = -80.0 / nado.scale
    return nado.freeze()


def _tilt(constraints: Constraints, reference: FrozenModel, ids: Sequence[int], length: int, strength: float = 1.0):
    """strength · Σ log W [N, V] before every output token of one unpadded sequence whose prompt has `length` tokens."""
    ids_1T = torch.tensor([list(ids)])
    ones_1T = torch.ones_like(ids_1T)
    with reference.lent() as still:
        features = hidden_states(still, ids_1T, ones_1T)
        total = torch.zeros(len(ids) - length, V)
        for nado, target in constraints:
            state = nado(ids_1T if nado.reads_tokens else features, ones_1T)
            value_N, key_NR = state.value_BT[0, length - 1 : -1], state.key_BTR[0, length - 1 : -1]
            log_r_NV = logsigmoid(nado.next_logits(value_N, key_NR))
            total += strength * log_tilt(log_r_NV[None], value_N[:1].sigmoid(), target)[0]
    return total


def _log_p(model: PreTrainedModel, ids: Sequence[int], length: int) -> Tensor:
    """log p [N, V] before every output token of one unpadded sequence."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0, length - 1 : -1].log_softmax(-1)


def _steps(guide: Callable[[Tensor], NadoGuide], model: PreTrainedModel) -> Tensor:
    """log q* [B, N, V] as the guide gives it step by step for the left-padded batch of IDS that goes on as in OUTPUTS."""
    width = max(map(len, IDS))
    ids_BT = torch.tensor([[31] * (width - len(p)) + p + o for p, o in zip(IDS, OUTPUTS, strict=True)])
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in IDS])
    steps, processor = [], guide(mask_BT)
    for n in range(len(OUTPUTS[0])):
        log_p_BV = torch.stack([_log_p(model, p + o, len(p))[n] for p, o in zip(IDS, OUTPUTS, strict=True)])
        steps.append(processor(ids_BT[:, : width + n], log_p_BV).log_softmax(-1))  # type: ignore[arg-type]
    return torch.stack(steps, 1)


def _expected(
    constraints: Constraints, reference: FrozenModel, model: PreTrainedModel, strength: float = 1.0
) -> Tensor:
    rows = []
    for prompt, output in zip(IDS, OUTPUTS, strict=True):
        log_w_NV = _tilt(constraints, reference, prompt + output, len(prompt), strength)
        rows.append(log_q_star(_log_p(model, prompt + output, len(prompt)), log_w_NV))
    return torch.stack(rows)


@pytest.fixture
def reference(tiny_model: LlamaForCausalLM) -> FrozenModel:
    """The model before fine-tuning; the live one then moves away from it."""
    frozen = FrozenModel(tiny_model)
    with torch.no_grad():
        tiny_model.lm_head.weight.add_(0.1 * _normal(V, D, seed=5))
        tiny_model.model.layers[0].mlp.down_proj.weight.mul_(-1.0)
    return frozen


@pytest.mark.parametrize("shape", ["frozen", "own"])
@pytest.mark.parametrize("target", [1.0, 0.9])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_step_of_a_padded_batch_is_q_star(
    tiny_model: LlamaForCausalLM, reference: FrozenModel, shape: str, target: float, strength: float
) -> None:
    constraints = [(_nado(reference, shape), target)]
    given = _steps(lambda mask_BT: NadoGuide(constraints, reference, mask_BT, strength), tiny_model)
    expected = _expected(constraints, reference, tiny_model, strength)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    log_p = torch.stack([_log_p(tiny_model, p + o, len(p)) for p, o in zip(IDS, OUTPUTS, strict=True)])
    assert (expected - log_p).abs().max() > 0.5


def test_several_constraints_tilt_together_whatever_each_of_them_reads(
    tiny_model: LlamaForCausalLM, reference: FrozenModel
) -> None:
    constraints = [
        (_nado(reference, seed=1), 1.0),
        (_nado(reference, "own", seed=2), 0.95),
        (_nado(reference, seed=3), 0.9),
    ]
    given = _steps(lambda mask_BT: NadoGuide(constraints, reference, mask_BT), tiny_model)
    torch.testing.assert_close(given, _expected(constraints, reference, tiny_model), rtol=1e-4, atol=1e-4)


def test_the_padding_before_a_prompt_moves_no_absolute_position() -> None:
    """A Llama sees distances alone; a GPT-2 sees where in the sequence a token stands."""
    config = GPT2Config(
        vocab_size=V, n_embd=D, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3, bos_token_id=None, eos_token_id=31
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    reference = FrozenModel(model)
    constraints = [(_nado(reference), 1.0)]
    given = _steps(lambda mask_BT: NadoGuide(constraints, reference, mask_BT), model)
    torch.testing.assert_close(given, _expected(constraints, reference, model), rtol=1e-4, atol=1e-4)


def test_the_frozen_model_is_read_once_for_every_token_and_not_at_all_where_tokens_suffice(
    tiny_model: LlamaForCausalLM, reference: FrozenModel
) -> None:
    read: list[int] = []
    with reference.lent() as still:
        still.register_forward_pre_hook(lambda *a: read.append(a[2]["input_ids"].shape[1]), with_kwargs=True)
    _steps(lambda mask_BT: NadoGuide([(_nado(reference), 1.0)], reference, mask_BT), tiny_model)
    assert read == [7, 1, 1, 1]
    read.clear()
    _steps(lambda mask_BT: NadoGuide([(_nado(reference, "own"), 1.0)], reference, mask_BT), tiny_model)
    assert read == []


@pytest.mark.parametrize("target", [1.0, 0.97])
def test_sampled_tokens_come_from_q_star_while_their_log_probability_stays_that_of_p(
    draw: Draw, tiny_model: LlamaForCausalLM, reference: FrozenModel, target: float
) -> None:
    """From the prompts' padding to the end: log_importance is log p − log q*, summed over full passes."""
    constraints = [(_nado(reference), target)]
    samples = draw(PROMPTS, each=3, guide=lambda mask_BT: NadoGuide(constraints, reference, mask_BT))
    assert {s.output_ids for s in samples}.isdisjoint(s.output_ids for s in draw(PROMPTS, each=3))
    for sample in samples:
        ids, length = [*sample.prompt_ids, *sample.output_ids], len(sample.prompt_ids)
        log_p_NV = _log_p(tiny_model, ids, length)
        log_q_NV = log_q_star(log_p_NV, _tilt(constraints, reference, ids, length))
        log_p, log_q = (x[torch.arange(len(x)), ids[length:]].double().sum().item() for x in (log_p_NV, log_q_NV))
        assert sample.log_probability == pytest.approx(log_p, abs=1e-3)
        assert sample.log_importance == pytest.approx(log_p - log_q, abs=1e-3)


def test_guided_samples_do_not_depend_on_what_is_drawn_with_them(draw: Draw, reference: FrozenModel) -> None:
    constraints = [(_nado(reference), 1.0)]

    def drawn(size: int) -> set[tuple[int, int, tuple[int, ...]]]:
        samples = draw(
            PROMPTS, each=2, batch_size=size, guide=lambda mask_BT: NadoGuide(constraints, reference, mask_BT)
        )
        return {(s.prompt_index, s.replicate, s.output_ids) for s in samples}

    assert drawn(64) == drawn(1) == drawn(3)


def test_a_token_that_always_violates_is_never_drawn_though_the_model_likes_it(
    draw: Draw, tiny_model: LlamaForCausalLM
) -> None:
    plain = draw(PROMPTS, each=12)
    liked = max(range(31), key=[v for s in plain for v in s.output_ids].count)
    assert sum(liked in s.output_ids for s in plain) > 24
    constraints = [(_banning(liked), 1.0)]
    guided = draw(PROMPTS, each=12, guide=lambda mask_BT: NadoGuide(constraints, FrozenModel(tiny_model), mask_BT))
    assert not any(liked in s.output_ids for s in guided)
    for sample in guided:  # and everything else in its old proportion: q* = p given that the token is not drawn
        ids, length = [*sample.prompt_ids, *sample.output_ids], len(sample.prompt_ids)
        log_rest = torch.log1p(-_log_p(tiny_model, ids, length)[:, liked].double().exp()).sum().item()
        assert sample.log_importance == pytest.approx(log_rest, abs=1e-3)


def test_a_share_of_violations_is_kept_when_that_is_the_target(tiny_model: LlamaForCausalLM) -> None:
    """δ = 0.9 from r = 0.5: W = β = 0.2 where R = 0, and W = β + (α − β)·r = 1 where R is what it was."""
    mask_BT = torch.ones(1, 2, dtype=torch.long)
    guide = NadoGuide([(_banning(3, base_rate=0.5), 0.9)], FrozenModel(tiny_model), mask_BT)
    w_V = guide(torch.tensor([[5, 6]]), torch.zeros(1, V))[0].exp()  # type: ignore[arg-type]
    torch.testing.assert_close(w_V, torch.where(torch.arange(V) == 3, 0.2, 1.0))


def test_a_prompt_that_meets_its_target_already_is_left_alone(draw: Draw, tiny_model: LlamaForCausalLM) -> None:
    """r = 0.9 ≥ δ = 0.8: the constraint is inactive, the same uniforms give the same tokens."""
    constraints = [(_banning(4, base_rate=0.9), 0.8)]
    guided = draw(PROMPTS, each=4, guide=lambda mask_BT: NadoGuide(constraints, FrozenModel(tiny_model), mask_BT))
    assert all(abs(sample.log_importance) < 1e-5 for sample in guided)
    plain = draw(PROMPTS, each=4)
    assert [s.output_ids for s in guided] == [s.output_ids for s in plain]
    assert [s.log_probability for s in guided] == pytest.approx([s.log_probability for s in plain])


def test_satisfaction_is_that_of_the_prompt_at_every_step(tiny_model: LlamaForCausalLM, reference: FrozenModel) -> None:
    """A prompt's constraint does not switch off half-way because the prefix has become good."""
    nado = _nado(reference)
    guide = NadoGuide([(nado, 0.9)], reference, torch.ones(1, 1, dtype=torch.long))
    told: list[Tensor] = []
    for n in range(1, 6):
        told.append(guide(torch.tensor([IDS[0][:n]]), torch.zeros(1, V)))  # type: ignore[arg-type]
    expected = _tilt([(nado, 0.9)], reference, IDS[0][:6], 1)
    torch.testing.assert_close(torch.cat(told), expected, rtol=1e-4, atol=1e-4)


def test_guidance_by_the_policys_own_past_lends_and_returns_its_adapter(
    draw: Draw, tiny_model: LlamaForCausalLM
) -> None:
    """With an adapter, reference and policy are one module: within each step one is put away for the other."""
    separate = FrozenModel(tiny_model)
    policy = add_adapter(tiny_model, peft_config(LoraSection(r=2)))
    shared = FrozenModel(policy)  # an adapter that does nothing yet: the same model as `separate`
    with torch.no_grad():
        for number, weight in enumerate(weight for weight in policy.parameters() if weight.requires_grad):
            weight.add_(0.3 * _normal(*weight.shape, seed=number))
    live = {name: weight.clone() for name, weight in policy.named_parameters()}
    nado = _nado(separate)
    one, other = (
        draw(PROMPTS, each=2, model=policy, guide=lambda mask_BT, read=read: NadoGuide([(nado, 1.0)], read, mask_BT))
        for read in (shared, separate)
    )
    assert [s.output_ids for s in one] == [s.output_ids for s in other]
    assert [s.log_probability for s in one] == pytest.approx([s.log_probability for s in other], abs=1e-3)
    assert all(torch.equal(live[name], weight) for name, weight in policy.named_parameters())
