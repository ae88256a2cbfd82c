"""NADO starts as the base rate, reads no future and no padding, and learns from few violations."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import logsigmoid

from adhere.functional.nado import oracle_likelihood
from adhere.functional.target import log_q_star, log_tilt
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig

B, T, V, D = 3, 7, 24, 16
SHAPES = ["frozen", "own"]
ONES_BT = torch.ones(B, T, dtype=torch.long)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _nado(shape: str = "frozen", seed: int = 0, dtype: torch.dtype = torch.float32, **settings: int) -> Nado:
    config = NadoConfig.model_validate({"shape": shape, "width": 8, "heads": 2, "rank": 4} | settings)
    return build_nado(config, (0.02 * _normal(V, D)).to(dtype), seed)


def _learned(shape: str = "frozen", dtype: torch.dtype = torch.float32, **settings: int) -> Nado:
    """One whose every weight is far from its start."""
    nado = _nado(shape, dtype=dtype, **settings)
    with torch.no_grad():
        for number, weight in enumerate(nado.parameters()):
            weight.copy_(0.4 * _normal(*weight.shape, seed=number))
    return nado


def _read(nado: Nado, seed: int = 1) -> Tensor:
    """Something for it to read: hidden states, or token ids."""
    return (_normal(B, T, seed=seed).abs() * 10).long() % V if nado.reads_tokens else _normal(B, T, D, seed=seed)


# ---- the start ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.3, 0.97])
def test_r_starts_as_the_base_rate_whatever_is_read_so_q_star_is_p(shape: str, rate: float) -> None:
    nado = _nado(shape)
    nado.start_at(rate)
    state = nado(_read(nado), ONES_BT)
    torch.testing.assert_close(state.value_BT.sigmoid(), torch.full((B, T), rate))
    logit_BV = nado.next_logits(state.value_BT[:, 2], state.key_BTR[:, 2])
    torch.testing.assert_close(logit_BV.sigmoid(), torch.full((B, V), rate))
    torch.testing.assert_close(nado.logits_of(state, torch.full((B, T), 5)), state.value_BT)
    logits_BV = _normal(B, V, seed=2)
    for target in (1.0, 0.99):
        log_w_BV = log_tilt(logsigmoid(logit_BV), state.value_BT[:, 0].sigmoid(), target)
        torch.testing.assert_close(log_w_BV, torch.zeros(B, V), atol=1e-6, rtol=0.0)
        torch.testing.assert_close(log_q_star(logits_BV, log_w_BV), logits_BV.log_softmax(-1))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_base_rate_of_nothing_or_everything_leaves_something_to_learn(rate: float) -> None:
    nado = _nado()
    nado.start_at(rate)
    assert 0.0 < nado(_read(nado), ONES_BT).value_BT[0, 0].sigmoid().item() < 1.0
    assert nado.value.bias.item() == pytest.approx(6.907 * (1 if rate else -1), abs=1e-3)


def test_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = _nado(seed=3).state_dict(), _nado(seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = _nado(seed=3).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in one.items())
    assert not torch.equal(one["embed.weight"], other["embed.weight"])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match=r"heads \(3\) must divide width \(8\)"):
        _nado(heads=3)
    unchecked = NadoConfig.model_construct(shape="own", width=8, heads=3, layers=1, rank=4)
    with pytest.raises(ValueError, match=r"nado\.heads \(3\) must divide nado\.width \(8\)"):
        build_nado(unchecked, _normal(V, D), seed=0)


def test_embeddings_are_shared_and_neither_trained_nor_saved() -> None:
    embeddings_VD = _normal(V, D).requires_grad_()
    nado = build_nado(NadoConfig(width=8, heads=2, rank=4), embeddings_VD, seed=0)
    assert nado.embeddings_VD.data_ptr() == embeddings_VD.data_ptr()
    assert "embeddings_VD" not in nado.state_dict() and "embeddings_VD" not in dict(nado.named_parameters())
    state = nado(_read(nado), ONES_BT)
    nado.logits_of(state, torch.full((B, T), 3)).sum().backward()
    assert embeddings_VD.grad is None and not nado.embeddings_VD.requires_grad


def test_embeddings_of_any_scale_are_read_alike() -> None:
    config = NadoConfig(shape="own", width=8, heads=2, rank=4)
    small, large = (build_nado(config, factor * _normal(V, D), seed=0) for factor in (0.01, 3.0))
    large.load_state_dict(_learned("own").state_dict())
    small.load_state_dict(large.state_dict())
    tokens_BT = _read(small)
    one, other = (nado.logits_of(nado(tokens_BT, ONES_BT), tokens_BT) for nado in (small, large))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# ---- every next token ---------------------------------------------------------------------------------------------------


def _both_ways(nado: Nado) -> tuple[Tensor, Tensor]:
    """logit R of every next token at every position: all tokens at once, and token by token."""
    with torch.no_grad():
        state = nado(_read(nado), ONES_BT)
        at_once = nado.next_logits(state.value_BT.flatten(), state.key_BTR.flatten(0, 1)).view(B, T, V)
        one_by_one = torch.stack([nado.logits_of(state, torch.full((B, T), v)) for v in range(V)], -1)
    return at_once, one_by_one


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frozen", [False, True])
def test_r_of_a_token_is_the_same_alone_and_among_all(shape: str, frozen: bool) -> None:
    nado = _learned(shape)
    at_once, one_by_one = _both_ways(nado.freeze() if frozen else nado)
    assert at_once.dtype == torch.float32
    assert at_once.std() > 1.0
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_embeddings_cost_no_more_than_their_digits(frozen: bool) -> None:
    nado = _learned(dtype=torch.bfloat16)
    at_once, one_by_one = _both_ways(nado.freeze() if frozen else nado)
    assert at_once.dtype == one_by_one.dtype == torch.float32
    torch.testing.assert_close(at_once, one_by_one, rtol=0.02, atol=0.02 * float(one_by_one.std()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_r_among_some_tokens_is_that_among_all(dtype: torch.dtype) -> None:
    nado = _learned(dtype=dtype)
    state = nado(_read(nado), ONES_BT)
    value_C, key_CR = state.value_BT.flatten(), state.key_BTR.flatten(0, 1)
    token_CK = (_normal(len(value_C), 5, seed=3).abs() * 10).long() % V
    expected_CK = nado.next_logits(value_C, key_CR).gather(1, token_CK)
    found_CK = nado.logits_among(value_C, key_CR, token_CK)
    torch.testing.assert_close(found_CK, expected_CK, atol=1e-5, rtol=1e-5)
    assert not found_CK.requires_grad


@pytest.mark.parametrize("shape", SHAPES)
def test_a_trunk_that_reads_bfloat16_multiplies_in_it_and_tells_float32(shape: str) -> None:
    exact, half = _learned(shape), _learned(shape, dtype=torch.bfloat16)
    exact.embeddings_VD.copy_(half.embeddings_VD)
    exact.scale = half.scale
    read = _read(half)
    one, other = exact(read, ONES_BT), half(read, ONES_BT)
    assert other.value_BT.dtype == other.key_BTR.dtype == torch.float32
    for precise, rounded in zip(one, other, strict=True):
        assert not torch.equal(precise, rounded)
        torch.testing.assert_close(rounded, precise, atol=0.05, rtol=0.05)


def test_freezing_keeps_the_token_table_and_freezing_again_renews_it() -> None:
    nado = _learned()
    before, _ = _both_ways(nado.freeze())
    assert nado.token_table()[0] is nado.token_table()[0]
    assert not nado.training and not any(weight.requires_grad for weight in nado.parameters())
    nado.load_state_dict(_nado(seed=9).state_dict())
    with torch.no_grad():
        nado.bias.weight.fill_(0.5)
    at_once, one_by_one = _both_ways(nado.freeze())
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-4)
    assert (at_once - before).abs().max() > 0.1


def test_the_token_table_of_one_that_learns_follows_its_weights() -> None:
    nado = _learned()
    first = nado.token_table()[1].clone()
    with torch.no_grad():
        nado.bias.weight.add_(1.0)
    assert not torch.allclose(nado.token_table()[1], first)


# ---- time and padding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", [1, 2])
def test_what_comes_later_changes_nothing_before_it(shape: str, layers: int) -> None:
    nado = _learned(shape, layers=layers)
    one, other = _read(nado), _read(nado, seed=5)
    changed = torch.cat([one[:, :4], other[:, 4:]], 1)
    whole, cut, different = nado(one, ONES_BT), nado(one[:, :4], ONES_BT[:, :4]), nado(changed, ONES_BT)
    for said, said_cut, said_different in zip(whole, cut, different, strict=True):
        torch.testing.assert_close(said[:, :4], said_cut)
        torch.testing.assert_close(said[:, :4], said_different[:, :4])
        assert (said[:, 4:] - said_different[:, 4:]).abs().max() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_what_came_earlier_is_read_in_its_order(shape: str) -> None:
    nado = _learned(shape)
    read = _read(nado)
    swapped = torch.cat([read[:, [1, 0]], read[:, 2:]], 1)
    assert (nado(read, ONES_BT).value_BT - nado(swapped, ONES_BT).value_BT)[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(("left", "right"), [(3, 0), (0, 3), (2, 1)])
def test_padding_on_either_side_changes_nothing_where_there_are_tokens(
    shape: str, heads: int, left: int, right: int
) -> None:
    nado = _learned(shape, width=12, heads=heads)
    read = _read(nado)
    junk = _read(nado, seed=6)
    padded = torch.cat([junk[:, :left], read, junk[:, :right]], 1)
    mask_BT = torch.tensor([[0] * left + [1] * T + [0] * right] * B)
    for said, said_padded in zip(nado(read, ONES_BT), nado(padded, mask_BT), strict=True):
        assert said_padded.isfinite().all()
        torch.testing.assert_close(said_padded[:, left : left + T], said)


def test_only_its_own_shape_reads_tokens() -> None:
    assert _nado("own").reads_tokens and not _nado("frozen").reads_tokens
    nado = _learned("own")
    tokens_BT = _read(nado)
    other_BT = tokens_BT.clone()
    other_BT[0, 2] = (other_BT[0, 2] + 1) % V
    moved_BT = (nado(tokens_BT, ONES_BT).value_BT - nado(other_BT, ONES_BT).value_BT).abs() > 1e-4
    assert moved_BT[0, 2:].any() and not moved_BT[0, :2].any() and not moved_BT[1:].any()


# ---- learning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_banned_token_is_found_from_whole_sequence_labels(shape: str) -> None:
    """Token 5 violates; only the verdict on 96 whole sequences is told."""
    banned, features_VD = 5, _normal(V, D, seed=3)
    tokens_NT = torch.randint(V, (96, 10), generator=torch.Generator().manual_seed(4))
    satisfied_N1 = (tokens_NT != banned).all(1, keepdim=True).float()
    nado = _nado(shape, width=16)
    nado.start_at(float(satisfied_N1.mean()))
    optimizer = torch.optim.AdamW(nado.parameters(), lr=0.01)
    read = tokens_NT if nado.reads_tokens else features_VD[tokens_NT]
    mask_NT = torch.ones_like(tokens_NT)
    for _ in range(60):
        state = nado(read, mask_NT)
        next_NT = nado.logits_of(state, tokens_NT.roll(-1, 1))[:, :-1]
        loss = oracle_likelihood(next_NT, satisfied_N1.expand_as(next_NT), torch.ones_like(next_NT))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean_NT = torch.where(tokens_NT == banned, 6, tokens_NT)
    with torch.no_grad():
        state = nado(clean_NT if nado.reads_tokens else features_VD[clean_NT], mask_NT)
        r_V = nado.freeze().next_logits(state.value_BT[:, 4], state.key_BTR[:, 4]).sigmoid().mean(0)
    assert r_V.argmin() == banned
    others_V = r_V[torch.arange(V) != banned]
    assert r_V[banned] < 0.5 * others_V.mean() and r_V[banned] < others_V.min() - 0.05
