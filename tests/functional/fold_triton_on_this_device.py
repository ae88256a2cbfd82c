"""The kernel against the twin and against torch. Run by `test_fold_triton.py`, in a process of its own: whether Triton
interprets is settled when it is imported. On a CPU where TRITON_INTERPRET=1 is set, otherwise on a GPU."""

from __future__ import annotations

import os
import runpy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adhere.functional import fold_triton, fused
from adhere.functional.fused import FusedLoss, constrained_cross_entropy
from adhere.functional.head import Head, Kept

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
_TWIN = runpy.run_path(str(Path(__file__).with_name("test_fused.py")))
World, assert_same, random, N, V, D = (_TWIN[name] for name in ("World", "assert_same", "random", "N", "V", "D"))

# numpy says so where e^x is infinite and 1 / (1 + e^x) is 0, as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


class Kernel(World):  # type: ignore[misc, valid-type]
    def fused(self, dtype: torch.dtype | None = None, triton: bool = True, **head: float) -> FusedLoss:
        kept = self.kept and replace(_moved(self.kept), head=_moved(self.kept.head))
        found = constrained_cross_entropy(
            self.hidden.to(DEVICE), Head(self.weight.to(DEVICE), **head), self.target.to(DEVICE), self.counted.to(DEVICE),
            [_moved(tilt) for tilt in self.tilts], dtype, kept, triton,
        )  # fmt: skip
        return FusedLoss(*(each.cpu() for each in found))


def _moved(section: Any) -> Any:
    """With its tensors on the device."""
    values = {field.name: getattr(section, field.name) for field in fields(section)}
    return replace(section, **{name: value.to(DEVICE) for name, value in values.items() if isinstance(value, Tensor)})


def _exactly(found: FusedLoss) -> FusedLoss:
    return FusedLoss(*(each.double() for each in found))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last of them shorter."""
    for name in ("_ROWS_ON_CPU", "_ROWS_ELSEWHERE"):
        monkeypatch.setattr(fused, name, 4)


@pytest.mark.parametrize("constraints", [0, 1, 2, 3])
@pytest.mark.parametrize(("vocabulary", "tile"), [(7, 2048), (64, 16), (1000, 128)])
def test_values_and_gradients_are_those_of_the_twin_and_of_torch(
    monkeypatch: pytest.MonkeyPatch, constraints: int, vocabulary: int, tile: int
) -> None:
    monkeypatch.setattr(fold_triton, "_TILE", tile)
    world = Kernel(vocabulary=vocabulary, constraints=constraints)
    assert_same(world, world.fused(), world.twin())
    assert_same(world, world.fused(), _exactly(world.fused(triton=False)))


def test_a_vocabulary_of_50257_is_no_different() -> None:
    world = Kernel(positions=2, vocabulary=50_257)
    assert_same(world, world.fused(), world.twin())


@pytest.mark.parametrize("head", [{"scale": 0.3}, {"cap": 2.0}, {"scale": 0.5, "cap": 2.0}], ids=str)
def test_a_logit_scale_and_a_soft_cap_are_the_models_own(head: dict[str, float]) -> None:
    world = Kernel()
    assert_same(world, world.fused(**head), world.twin(**head))


@pytest.mark.parametrize("constraints", [0, 2])
@pytest.mark.parametrize("head", [{}, {"scale": 0.5, "cap": 2.0}], ids=str)
def test_positions_are_held_near_the_reference_where_they_are_to_be(
    monkeypatch: pytest.MonkeyPatch, head: dict[str, float], constraints: int
) -> None:
    monkeypatch.setattr(fold_triton, "_TILE", 16)
    world = Kernel(constraints=constraints)
    weight = random(N, seed=60).abs() * (
        torch.arange(N) > 4
    )  # nowhere in the first chunk, not everywhere in the second
    world.kept = Kept(random(N, D, seed=61), Head(random(V, D, seed=62), **head), weight)
    found = world.fused(**head)
    assert (found.kept_N[5:] > 0).all() and (found.kept_N[:5] == 0).all()
    assert_same(world, found, world.twin(**head))
    world.kept = Kept(world.hidden.detach(), Head(world.weight.detach()), weight)  # it has not moved
    torch.testing.assert_close(world.fused().kept_N, torch.zeros(N), atol=2e-6, rtol=0)


@pytest.mark.parametrize("value", [-200.0, -80.0, 0.0, 80.0])
def test_r_near_0_and_1_gives_finite_numbers_and_the_twins(value: float) -> None:
    world = Kernel(spread=0.01)
    for tilt in world.tilts:
        tilt.value_N.fill_(value)
        tilt.key_NR[0] = 40.0
    found, expected = world.fused(), world.twin()
    assert all(x.isfinite().all() for x in (*found, *world.gradients(world.fused().loss)))
    assert_same(world, found, expected, atol=1e-4)


@pytest.mark.parametrize("score", [0.0, 1.0, 1.5])
def test_the_token_that_is_known_to_violate_has_the_rows_score(score: float) -> None:
    world = Kernel(constraints=1)
    world.tilts[0].known_r_N.fill_(score)
    world.tilts[0].known_token_N.copy_(world.target)
    found = world.fused()
    world.tilts[0].known_r_N.clamp_(max=1.0)
    assert_same(world, found, world.twin())


def test_where_a_constraint_does_not_act_nothing_of_it_is_read() -> None:
    world = Kernel()
    world.kept = Kept(
        random(N, D, seed=61), Head(random(V, D, seed=62)), random(N, seed=60).abs() * (torch.arange(N) > 4)
    )
    expected = world.fused()
    for tilt in world.tilts:
        for read in (tilt.value_N, tilt.key_NR, tilt.low_N, tilt.known_r_N):
            read[~tilt.held_N] = torch.nan
    world.kept.hidden_ND[:5] = torch.nan
    assert_same(world, world.fused(), _exactly(expected), atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_no_number_is_told_as_none() -> None:
    world = Kernel(constraints=1)
    held = world.tilts[0].held_N
    world.tilts[0].value_N.fill_(torch.nan)
    assert world.fused().value_KN[0, held].isnan().all()
    world.hidden.data[3] = torch.nan
    assert world.fused().cross_entropy_N.isnan().tolist() == [n == 3 for n in range(N)]


def test_no_positions_at_all_are_a_loss_of_0() -> None:
    world = Kernel(positions=0)
    found = world.fused()
    assert found.loss == 0 and found.value_KN.shape == (2, 0)
    assert all((gradient == 0).all() for gradient in world.gradients(found.loss))


def test_in_bfloat16_it_is_as_near_as_the_products_are() -> None:
    world = Kernel(vocabulary=500)
    world.kept = Kept(random(N, D, seed=61), Head(random(500, D, seed=62)), random(N, seed=60).abs())
    assert_same(world, world.fused(torch.bfloat16), world.twin(), atol=0.12, rtol=2**-5)
    torchs = world.fused(torch.bfloat16, triton=False)
    # The products are the same; a gradient may be rounded to the neighbour.
    for one, other in zip(world.fused(torch.bfloat16), torchs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    for one, other in zip(world.gradients(world.fused(torch.bfloat16).loss), world.gradients(torchs.loss), strict=True):
        torch.testing.assert_close(one, other, atol=0.01, rtol=2**-7)


def test_without_gradient_it_says_the_same() -> None:
    world = Kernel()
    with torch.no_grad():
        still = world.fused()
    assert not still.loss.requires_grad
    for one, other in zip(still, world.fused(), strict=True):
        torch.testing.assert_close(one, other.detach(), atol=0, rtol=0)


def test_products_in_float64_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fold_triton, "TritonFold")
    world = Kernel()
    torch.testing.assert_close(world.fused(torch.float64).loss, world.twin().loss, atol=1e-6, rtol=1e-6)
