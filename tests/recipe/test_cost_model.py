from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adhere.models.nado_config import NadoConfig
from adhere.recipe.check import check_recipe
from adhere.recipe.cost_model import (
    ADAM_BYTES,
    HALF_SPEED_TOKENS,
    STEP_EFFICIENCY,
    Costs,
    Machine,
    Part,
    constrained_costs,
    measured_machine,
    nado_weights,
    plain_part,
    product_share,
)
from adhere.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
MODEL: Any = SimpleNamespace(parameters=1_000_000, trainable=1_000_000, vocabulary=1000, width=64, layers=2)
FAST = Machine(trained=1e12, inference=1e12, exact=1e11, elements=1e9, bytes=1e10)
LENGTHS = [20] * 18


def _costs(recipe: Recipe, machine: Machine = FAST, steps: int = 40, drawn: int = 32) -> Costs:
    return constrained_costs(recipe, MODEL, machine, LENGTHS, steps, drawn)


def _part(costs: Costs, name: str) -> Part:
    return next(part for part in costs.parts if part.name == name)


def test_a_second_device_takes_over_what_makes_guidance_and_the_longer_of_the_two_counts() -> None:
    symbols = {"1": 10.0, "k": 1.0, "x": 0.5, "ρg": 3.0, "a": 1.0, "o": 0.5, "s": 0.2}
    costs = Costs(tuple(Part(name, name, 0.0, 0.0, seconds) for name, seconds in symbols.items()))
    assert costs.ratio() == pytest.approx(1 + 0.1 + 0.05 + 0.3 + 0.1 + 0.05)
    assert costs.ratio(second_device=True) == pytest.approx(1 + 0.1 + 0.05 + 0.02)
    slow = Costs((*costs.parts, Part("more", "o", 0.0, 0.0, 20.0)))
    assert slow.ratio(second_device=True) == pytest.approx(0.3 + 0.1 + 2.05)
    assert costs.sentence().startswith("1 + k 0.10 + x 0.05 + ρg 0.30 + a 0.10 = 1.60 × plain")


def test_plain_fine_tuning_is_its_products_its_cross_entropy_and_the_optimisers_bytes() -> None:
    part = plain_part(MODEL, FAST, tokens=3200, steps=40, micro_steps=40)
    assert part.flops == 6 * 1_000_000 * 3200
    assert part.bytes == 40 * (ADAM_BYTES + 6) * 1_000_000
    expected = part.flops / (product_share(80) * 1e12) + part.bytes / 1e10 + 4 * 3200 * 1000 / 1e9
    assert part.seconds == pytest.approx(expected)
    frozen = SimpleNamespace(**{**vars(MODEL), "trainable": 0})
    assert plain_part(frozen, FAST, 3200, 40, 40).bytes < part.bytes / 5  # type: ignore[arg-type]
    accumulated = plain_part(MODEL, FAST, 3200, 40, micro_steps=160)
    assert accumulated.flops == part.flops and accumulated.seconds > part.seconds  # thinner products


def test_a_step_over_many_tokens_comes_near_its_full_share_of_speed() -> None:
    assert product_share(HALF_SPEED_TOKENS) == pytest.approx(STEP_EFFICIENCY / 2)
    assert 0.97 * STEP_EFFICIENCY < product_share(16_384) < STEP_EFFICIENCY


def test_each_part_grows_with_what_it_is_made_of(make_recipe: MakeRecipe) -> None:
    base = _costs(make_recipe())
    longer = _costs(make_recipe(), steps=80)
    assert longer.seconds("k") == pytest.approx(2 * base.seconds("k"))
    assert longer.seconds("a") == base.seconds("a") > 0  # guidance is made as often
    more, unasked = _costs(make_recipe(), drawn=64), _costs(make_recipe(nado_fit={"consistency_positions": 0}))
    assert _part(more, "drawing outputs").seconds > 1.5 * _part(base, "drawing outputs").seconds
    assert _part(more, "reading outputs") == _part(base, "reading outputs")  # what is drawn to measure is not read
    assert _part(unasked, "reading outputs").seconds < _part(base, "reading outputs").seconds
    held = {part.name: part for part in base.parts}["frozen model in the steps"]
    anchored = {part.name: part for part in _costs(make_recipe(guidance={"anchor": "reference"})).parts}[held.name]
    assert anchored.flops > 2 * held.flops > 0  # features of the corpus are kept, the anchor's logits are not
    own = _costs(make_recipe(nado={"shape": "own", "width": 8, "heads": 2, "rank": 4}))
    assert {part.name: part for part in own.parts}[held.name].flops == 0


def test_the_weights_of_nado_are_counted_as_they_are() -> None:
    from adhere.models.nado import build_nado

    config = NadoConfig()
    counted = sum(weight.numel() for weight in build_nado(config, torch.randn(50, 576), seed=0).parameters())
    assert nado_weights(config, 576) == pytest.approx(counted, rel=0.02)


def test_a_machine_is_measured_in_a_moment_and_check_tells_the_sum(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adhere.recipe.cost_model._BENCH_SECONDS", 0.001)
    machine = measured_machine(torch.device("cpu"), torch.float32)
    assert machine.trained == machine.exact > 1e6 and machine.elements > 1e5 and machine.bytes > 1e6
    plan = check_recipe(make_recipe())
    assert "× plain fine-tuning on one device" in dict(plan.lines())["constraint"]
    assert "constraint" not in dict(check_recipe(make_recipe(method="sft")).lines())
