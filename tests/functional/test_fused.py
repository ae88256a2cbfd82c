"""The fused head against a twin that holds everything: logits, log R, log W, one constraint after the other, by autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from adhere.functional import fold, fused
from adhere.functional.fused import FusedLoss, constrained_cross_entropy
from adhere.functional.head import Head, Kept, Tilt
from adhere.functional.kl import constrained_kl, kl_to
from adhere.functional.target import PROBABILITY_FLOOR, log_tilt, tilt_line

N, V, D, R = 9, 37, 6, 3


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class World:
    """Hidden states, a head and up to three constraints."""

    def __init__(self, positions: int = N, vocabulary: int = V, constraints: int = 2, spread: float = 1.0) -> None:
        self.hidden = random(positions, D, seed=0).requires_grad_()
        self.weight = (0.7 * random(vocabulary, D, seed=1)).requires_grad_()
        self.target = torch.randint(vocabulary, (positions,), generator=torch.Generator().manual_seed(2))
        self.counted = random(positions, seed=3).abs() * (
            torch.arange(positions) % 3 != 0
        )  # every third is not learned
        self.satisfaction = random(positions, seed=4).sigmoid()
        self.targets = (1.0, 0.8, 0.9)[:constraints]
        self.kept: Kept | None = None
        self.tilts = [self._tilt(k, spread, vocabulary) for k in range(constraints)]

    def _tilt(self, k: int, spread: float, vocabulary: int) -> Tilt:
        positions = len(self.target)
        held = torch.arange(positions) % 4 != k
        known = torch.where(torch.arange(positions) % 5 == k, self.target, -1)
        low, slope = tilt_line(self.satisfaction, self.targets[k])
        return Tilt(
            spread * random(positions, seed=10 + k), spread * random(positions, R, seed=20 + k),
            random(vocabulary, R, seed=30 + k), random(vocabulary, seed=40 + k), low, slope,
            random(positions, seed=50 + k).abs() * held, held, known, torch.full((positions,), 0.2 * k),
        )  # fmt: skip

    def fused(self, dtype: torch.dtype | None = None, **head: float) -> FusedLoss:
        return constrained_cross_entropy(
            self.hidden, Head(self.weight, **head), self.target, self.counted, self.tilts, dtype, self.kept
        )

    def twin(self, scale: float = 1.0, cap: float | None = None) -> FusedLoss:
        hidden, weight = self.hidden.double(), self.weight.double()
        logits = scale * hidden @ weight.T
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        ce = cross_entropy(logits, self.target, reduction="none")
        loss, surrogates, values = (self.counted * ce).sum(), [], []
        for tilt, target in zip(self.tilts, self.targets, strict=True):
            log_r = logsigmoid(tilt.value_N[:, None] + tilt.key_NR @ tilt.table_VR.T + tilt.bias_V).double()
            rows = (tilt.known_token_N >= 0).nonzero()[:, 0]
            log_r[rows, tilt.known_token_N[rows]] = tilt.known_r_N.double().clamp(min=PROBABILITY_FLOOR).log()[rows]
            surrogate, value = constrained_kl(logits, log_tilt(log_r, self.satisfaction.double(), target))
            loss = loss + (tilt.weight_N * surrogate).sum()
            surrogates.append(surrogate * tilt.held_N)
            values.append(value * tilt.held_N)
        kept = torch.zeros_like(ce)
        if self.kept is not None:
            reference = scale * self.kept.hidden_ND.double() @ self.kept.head.weight_VD.double().T
            if cap is not None:
                reference = cap * torch.tanh(reference / cap)
            kept = kl_to(logits, reference) * (self.kept.weight_N != 0)
            loss = loss + (self.kept.weight_N * kept).sum()
        of_none = logits.new_zeros(0, len(self.target))
        surrogate_KN, value_KN = (torch.stack(each) if each else of_none for each in (surrogates, values))
        return FusedLoss(loss, ce, surrogate_KN, value_KN, kept)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [self.hidden, self.weight]))


def assert_same(world: World, found: FusedLoss, expected: FusedLoss, atol: float = 1e-5, rtol: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=atol, rtol=rtol)
    for one, other in zip(world.gradients(3 * found.loss), world.gradients(3 * expected.loss), strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=atol, rtol=rtol)


@pytest.mark.parametrize("constraints", [0, 1, 2])
@pytest.mark.parametrize("vocabulary", [7, 1000])
@pytest.mark.parametrize(("rows", "elements"), [(1, 1), (4, 100), (4, 2**20), (512, 2**20)])
def test_values_and_gradients_are_those_of_the_twin_however_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, constraints: int, vocabulary: int, rows: int, elements: int
) -> None:
    monkeypatch.setattr(fused, "_ROWS_ON_CPU", rows)
    monkeypatch.setattr(fold, "_BLOCK_ON_CPU", elements)
    monkeypatch.setattr(fused, "_VOCABULARY_AT_A_TIME", 16)
    world = World(vocabulary=vocabulary, constraints=constraints)
    assert_same(world, world.fused(), world.twin())


def test_a_vocabulary_of_151936_is_no_different() -> None:
    world = World(positions=3, vocabulary=151_936)
    assert_same(world, world.fused(), world.twin())


@pytest.mark.parametrize("head", [{"scale": 0.3}, {"cap": 2.0}, {"scale": 0.5, "cap": 2.0}], ids=str)
def test_a_logit_scale_and_a_soft_cap_are_the_models_own(head: dict[str, float]) -> None:
    world = World()
    assert_same(world, world.fused(**head), world.twin(**head))


@pytest.mark.parametrize("head", [{}, {"scale": 0.5, "cap": 2.0}], ids=str)
@pytest.mark.parametrize("elements", [1, 100, 2**20])
def test_positions_are_held_near_the_reference_where_they_are_to_be(
    monkeypatch: pytest.MonkeyPatch, head: dict[str, float], elements: int
) -> None:
    monkeypatch.setattr(fused, "_ROWS_ON_CPU", 4)
    monkeypatch.setattr(fold, "_BLOCK_ON_CPU", elements)
    world = World()
    weight = random(N, seed=60).abs() * (torch.arange(N) > 3)
    world.kept = Kept(random(N, D, seed=61), Head(random(V, D, seed=62), **head), weight)
    assert (world.fused(**head).kept_N[4:] > 0).all()
    assert_same(world, world.fused(**head), world.twin(**head))
    world.kept = Kept(world.hidden.detach(), Head(world.weight.detach()), weight)  # it has not moved
    torch.testing.assert_close(world.fused().kept_N, torch.zeros(N), atol=2e-6, rtol=0)


@pytest.mark.parametrize("value", [-80.0, 0.0, 80.0])
def test_r_near_0_and_1_gives_finite_numbers_and_the_twins(value: float) -> None:
    world = World(spread=0.01)
    for tilt in world.tilts:
        tilt.value_N.fill_(value)
        tilt.key_NR[0] = 40.0
    found, expected = world.fused(), world.twin()
    assert all(x.isfinite().all() for x in (*found, *world.gradients(world.fused().loss)))
    assert_same(world, found, expected, atol=1e-4)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_token_that_is_known_to_violate_has_the_rows_score(score: float) -> None:
    world = World(constraints=1)
    world.tilts[0].known_r_N.fill_(score)
    world.tilts[0].known_token_N.copy_(world.target)
    assert_same(world, world.fused(), world.twin())


def test_positions_where_nothing_counts_give_no_gradient() -> None:
    world = World()
    world.counted[4:] = 0
    for tilt in world.tilts:
        tilt.held_N[4:], tilt.weight_N[4:] = False, 0
    found = world.fused()
    assert (found.value_KN[:, 4:] == 0).all()
    hidden, weight = world.gradients(found.loss)
    assert (hidden[4:] == 0).all()
    for tensor in (world.counted, *(tilt.weight_N for tilt in world.tilts)):
        tensor.zero_()
    assert all((gradient == 0).all() for gradient in world.gradients(world.fused().loss))
    assert weight.abs().sum() > 0


def test_no_positions_at_all_are_a_loss_of_0() -> None:
    world = World(positions=0)
    found = world.fused()
    assert found.loss == 0 and found.value_KN.shape == (2, 0)
    assert all((gradient == 0).all() for gradient in world.gradients(found.loss))


def test_in_bfloat16_it_is_as_near_as_the_products_are() -> None:
    world = World(vocabulary=500)
    assert_same(world, world.fused(torch.bfloat16), world.twin(), atol=0.12, rtol=2**-5)


def test_a_constant_r_costs_nothing_in_bfloat16_either() -> None:
    world = World(constraints=1)
    world.tilts[0].key_NR.zero_()
    world.tilts[0].bias_V.zero_()
    world.tilts[0].known_token_N.fill_(-1)
    torch.testing.assert_close(world.fused(torch.bfloat16).value_KN, torch.zeros(1, N), atol=1e-6, rtol=0)


def test_a_frozen_head_gets_no_gradient_and_none_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    expected = world.gradients(world.fused().loss)[0]
    world.weight.requires_grad_(False)
    made: list[tuple[int, ...]] = []
    monkeypatch.setattr(Tensor, "new_zeros", lambda self, *shape, **k: made.append(shape) or torch.zeros(*shape, **k))
    loss = world.fused().loss
    assert (world.weight.shape,) not in made
    torch.testing.assert_close(torch.autograd.grad(loss, world.hidden)[0], expected)


def test_tied_embeddings_get_both_gradients() -> None:
    world = World()
    embedding = world.weight
    tokens = world.target

    def loss(ours: bool) -> Tensor:
        world.hidden = embedding[tokens]
        return (world.fused() if ours else world.twin()).loss

    ours, theirs = (torch.autograd.grad(loss(which), embedding)[0] for which in (True, False))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_are_told_once_and_never_taken_for_kept() -> None:
    loss = World().fused().loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="asked for once"):
        loss.backward()


def test_without_gradient_it_says_the_same() -> None:
    world = World()
    with torch.no_grad():
        still = world.fused()
    assert not still.loss.requires_grad
    torch.testing.assert_close(still.loss, world.fused().loss.detach())


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="not in float16"):
        World().fused(torch.float16)


def test_never_more_than_a_chunk_of_the_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_ROWS_ON_CPU", 4)
    monkeypatch.setattr(fold, "_BLOCK_ON_CPU", 2 * 1000)
    world = World(positions=64, vocabulary=1000)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in (out,) if isinstance(out, Tensor) else ():
                if tensor.shape[-1:] == (1000,) and tensor.untyped_storage().nbytes() > largest:
                    largest = tensor.untyped_storage().nbytes()
            return out

    with Watch():
        world.fused().loss.backward()
    assert largest == D * 1000 * 4  # the head itself, transposed; a chunk of the logits is smaller


@pytest.mark.parametrize("threads", [1, 4])
def test_the_logarithm_is_one_whoever_computes_it(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x = torch.tensor([[1e-30, 0.5, 1.0, 1e30]])
    torch.testing.assert_close(fold._log_(x.clone()), torch.tensor([[math.log(v) for v in x[0].tolist()]]))
