"""How the fit goes about its work: what it holds out, where it stops, what it goes on from. What it learns: test_learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adhere.errors import GuidanceError
from adhere.guidance import fit as fitting
from adhere.guidance.config import FitConfig
from adhere.guidance.evidence import ReadEvidence
from adhere.guidance.fit import FitResult, fit, load_optimizer, optimizer_tensors
from adhere.models.nado import Nado
from adhere.records import Verdict

MakeEvidence = Callable[..., list[ReadEvidence]]
MakeNado = Callable[[], Nado]
CONFIG = FitConfig(epochs=2, batch_size=16)


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fit(nado: Nado, evidence: list[ReadEvidence], config: FitConfig = CONFIG, **kwargs: Any) -> FitResult:
    return fit(nado, kwargs.pop("state", None), evidence, "c", config, _random(), **kwargs)


def _judged(items: list[ReadEvidence], score: float | None) -> list[ReadEvidence]:
    return [
        dataclasses.replace(item, evidence=dataclasses.replace(item.evidence, verdicts={"c": Verdict(score)}))
        for item in items
    ]


def _weights(nado: Nado) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in nado.parameters()]


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Which sequences (by `id` of their evidence) the fit trains on, and which it measures itself on."""
    seen: dict[str, set[int]] = {"trained": set(), "held out": set()}
    loss, held_out_loss = fitting._loss, fitting._held_out_loss

    def trained(nado: Nado, items: list[ReadEvidence], *rest: Any) -> torch.Tensor:
        seen["trained"] |= {id(item.evidence) for item in items}
        return loss(nado, items, *rest)

    def held_out(nado: Nado, items: list[ReadEvidence], *rest: Any) -> float:
        seen["held out"] |= {id(item.evidence) for item in items}
        return held_out_loss(nado, items, *rest)

    monkeypatch.setattr(fitting, "_loss", trained)
    monkeypatch.setattr(fitting, "_held_out_loss", held_out)
    return seen


@pytest.mark.parametrize(("score", "said"), [(1.0, "satisfies"), (0.0, "violates"), (0.4, "violates")])
def test_labels_that_are_all_equal_are_refused_with_advice(
    toy_evidence: MakeEvidence, make_nado: MakeNado, score: float, said: str
) -> None:
    with pytest.raises(GuidanceError, match=rf"'c': every one of 20 .* {said} it .*guidance\.samples.*corpus_rows"):
        _fit(make_nado(), _judged(toy_evidence(20), score))


def test_outputs_of_which_none_has_a_verdict_are_refused(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    with pytest.raises(GuidanceError, match="no output has a verdict"):
        _fit(make_nado(), _judged(toy_evidence(20), None))


def test_outputs_without_a_verdict_are_left_out(
    toy_evidence: MakeEvidence, make_nado: MakeNado, watched: dict[str, set[int]]
) -> None:
    judged, unjudged = toy_evidence(60), _judged(toy_evidence(40, seed=1), None)
    result = _fit(make_nado(), [*unjudged, *judged])
    assert result.quality["sequences"] == 60
    assert watched["trained"] | watched["held out"] == {id(item.evidence) for item in judged}
    assert _same(_weights(result.nado), _weights(_fit(make_nado(), judged).nado))


def test_a_tenth_of_samples_and_of_corpus_rows_is_held_out(
    toy_evidence: MakeEvidence, make_nado: MakeNado, watched: dict[str, set[int]]
) -> None:
    samples, corpus = toy_evidence(50), toy_evidence(80, seed=1, on_policy=False)
    _fit(make_nado(), [*samples, *corpus])
    assert not watched["trained"] & watched["held out"]
    held = watched["held out"]
    assert [sum(id(item.evidence) in held for item in part) for part in (samples, corpus)] == [5, 8]


def test_a_corpus_row_is_never_learned_in_one_iteration_and_held_out_in_another(
    toy_evidence: MakeEvidence, make_nado: MakeNado, watched: dict[str, set[int]]
) -> None:
    corpus = toy_evidence(80, seed=9, on_policy=False)
    known = {id(item.evidence) for item in corpus}
    trained, held_out = [], []
    for iteration, order in enumerate((corpus, corpus[::-1], corpus[40:] + corpus[:40])):
        for seen in watched.values():
            seen.clear()
        samples = toy_evidence(30 + 10 * iteration, seed=iteration)  # other samples, and more of them
        _fit(make_nado(), [*samples, *order] if iteration else [*order, *samples])
        trained.append(watched["trained"] & known)
        held_out.append(watched["held out"] & known)
    assert trained[0] == trained[1] == trained[2]
    assert held_out[0] == held_out[1] == held_out[2]
    assert not trained[0] & held_out[0]


def test_early_stopping_keeps_the_weights_of_the_best_epoch(
    toy_evidence: MakeEvidence, make_nado: MakeNado, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, at = iter([5.0, 4.0, 1.0, 3.0, 2.0]), []

    def told(nado: Nado, *_: Any) -> float:
        at.append(_weights(nado))
        return next(losses)

    monkeypatch.setattr(fitting, "_held_out_loss", told)
    result = _fit(make_nado(), toy_evidence(40), FitConfig(epochs=4, batch_size=16))
    assert _same(_weights(result.nado), at[2]) and not _same(at[2], at[4])
    assert (result.quality["best_epoch"], result.quality["held_out_loss"], result.quality["start_loss"]) == (2, 1, 5)


def test_what_is_kept_is_the_average_of_the_weights_over_the_steps(
    toy_evidence: MakeEvidence, make_nado: MakeNado, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([9.0, 1.0])
    monkeypatch.setattr(fitting, "_held_out_loss", lambda *_: next(losses))
    nado, evidence = make_nado(), toy_evidence(40)
    nado.start_at(0.5)
    start, steps = _weights(nado), list[list[torch.Tensor]]()
    config = FitConfig(epochs=1, batch_size=8, averaging=0.5)
    state = optimizer_tensors(torch.optim.AdamW(nado.parameters()))  # with a state it begins at the weights as they are
    taken = _fit(nado, evidence, config, state=state, progress=lambda *_: steps.append(_weights(nado)))
    kept = _weights(taken.nado)
    assert len(steps) > 3 and not _same(kept, steps[-1])
    for place, weight in enumerate(kept):
        expected = torch.zeros_like(weight)
        for number, weights in enumerate(steps):
            decay = min(0.5, (1 + number) / (10 + number))
            expected = decay * (expected if number else start[place]) + (1 - decay) * weights[place]
        torch.testing.assert_close(weight, expected)


def test_a_fit_that_only_makes_it_worse_is_not_taken_up(
    toy_evidence: MakeEvidence, make_nado: MakeNado, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _fit(make_nado(), toy_evidence(40))
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(fitting, "_held_out_loss", lambda *_: next(losses))
    nado, state = first.nado, first.optimizer
    before = _weights(nado)
    result = _fit(nado, toy_evidence(40), state=state)
    assert _same(_weights(result.nado), before)
    assert result.quality["best_epoch"] == 0


def test_held_out_loss_is_the_mean_of_value_and_next_token_cross_entropy_in_importance(
    toy_evidence: MakeEvidence, make_nado: MakeNado
) -> None:
    """At a constant R the loss is known: that of the base rate, weighed by how much of p each sample stands for."""
    items = toy_evidence(40)
    for item, weight in zip(items, torch.linspace(0.2, 3.0, 40).log().tolist(), strict=True):
        item.evidence = dataclasses.replace(item.evidence, log_importance=weight)
    nado = make_nado()
    nado.start_at(0.8)
    scores = torch.tensor([item.evidence.verdicts["c"].score for item in items])
    weights = torch.linspace(0.2, 3.0, 40)
    expected = -(weights * torch.where(scores == 1, 0.8, 0.2).log()).sum() / weights.sum()
    assert fitting._held_out_loss(nado, items, "c", CONFIG) == pytest.approx(float(expected), rel=1e-5)


def test_the_optimiser_survives_safetensors_to_the_bit(tmp_path: Path) -> None:
    def new() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        layer = torch.nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.fill_(0.5)
            layer.bias.fill_(0.1)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW, number: int) -> None:
        optimizer.zero_grad()
        (layer(torch.arange(3.0) + number) ** 2).sum().backward()
        optimizer.step()

    layer, optimizer = new()
    for number in range(3):
        step(layer, optimizer, number)
    save_file(optimizer_tensors(optimizer), tmp_path / "optimizer.safetensors")
    other, resumed = new()
    other.load_state_dict(layer.state_dict())
    loaded = load_file(tmp_path / "optimizer.safetensors")
    load_optimizer(resumed, loaded)
    before = {name: tensor.clone() for name, tensor in loaded.items()}
    for number in range(3, 6):
        step(layer, optimizer, number)
        step(other, resumed, number)
    assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)
    assert all(torch.equal(loaded[name], before[name]) for name in before)  # guidance that is kept must not change


def test_the_next_fit_goes_on_from_weights_and_optimiser(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    first = _fit(make_nado(), toy_evidence(60))
    kept = {name: value.clone() for name, value in first.optimizer.items()}

    def go_on(state: dict[str, torch.Tensor] | None) -> FitResult:
        nado = make_nado()
        nado.load_state_dict(first.nado.state_dict())
        return _fit(nado, toy_evidence(60, seed=1), state=state)

    with_state, again, without = go_on(first.optimizer), go_on(first.optimizer), go_on(None)
    assert _same(_weights(with_state.nado), _weights(again.nado))
    assert not _same(_weights(with_state.nado), _weights(without.nado))
    assert all(torch.equal(first.optimizer[name], kept[name]) for name in kept)
    assert int(with_state.optimizer["0.step"]) > int(first.optimizer["0.step"])


def test_the_fit_depends_on_its_generator_alone(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    evidence = toy_evidence(60, asked=2)
    before = torch.random.get_rng_state()
    one = _fit(make_nado(), evidence)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert _same(_weights(one.nado), _weights(_fit(make_nado(), evidence).nado))


def test_progress_counts_every_step(toy_evidence: MakeEvidence, make_nado: MakeNado) -> None:
    told: list[tuple[int, int]] = []
    _fit(make_nado(), toy_evidence(50), progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 6) for step in range(1, 7)]  # 45 sequences in batches of 16, twice
