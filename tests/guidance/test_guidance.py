"""Guidance on disk: whole or not at all, and the same when it comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adhere.guidance import guidance as module
from adhere.guidance.config import FitConfig
from adhere.guidance.evidence import ReadEvidence
from adhere.guidance.fit import fit
from adhere.guidance.guidance import Guidance, generator_for
from adhere.models.nado import Nado
from adhere.records import GuidanceVersion

MakeNado = Callable[[], Nado]
MakeEvidence = Callable[..., list[ReadEvidence]]
TOKENS_BT = torch.tensor([[1, 5, 9, 3], [1, 2, 2, 7]])


@pytest.fixture
def guidance(make_nado: MakeNado, toy_evidence: MakeEvidence) -> Guidance:
    """Two constraints; the names hold what could be mistaken in a path of tensors."""
    nados, optimizers = {}, {}
    for number, name in enumerate(("c", "c/d.e")):
        items = toy_evidence(40, seed=number)
        result = fit(make_nado(), None, items, "c", FitConfig(epochs=1), generator_for(number))
        nados[name], optimizers[name] = result.nado, result.optimizer
        with torch.no_grad():
            for weight in result.nado.parameters():  # nothing of it is as in a fresh one
                weight.normal_(0, 0.5, generator=generator_for(number, 1))
    return Guidance(GuidanceVersion(2, 30, {"c": {"auc": 0.75}, "c/d.e": {"auc": 0.5}}), nados, optimizers)


def _r(nado: Nado) -> torch.Tensor:
    with torch.no_grad():
        state = nado(TOKENS_BT, torch.ones_like(TOKENS_BT))
        return nado.next_logits(state.value_BT[:, -1], state.key_BTR[:, -1])


def _other(guidance: Guidance) -> Guidance:
    changed = {name: nado for name, nado in guidance.nados.items()}
    with torch.no_grad():
        for nado in changed.values():
            nado.value.bias.add_(1.0)
    return Guidance(GuidanceVersion(3, 40), changed, guidance.optimizers)


def test_what_was_saved_comes_back_to_the_bit(guidance: Guidance, tmp_path: Path) -> None:
    folder = tmp_path / "guidance" / "iteration-0002"
    assert not Guidance.exists(folder)
    expected = {name: _r(nado) for name, nado in guidance.nados.items()}
    guidance.save(folder)
    assert Guidance.exists(folder)
    embeddings_VD = guidance.nados["c"].embeddings_VD
    loaded = Guidance.load(folder, embeddings_VD)
    assert loaded.version == guidance.version
    assert loaded.reads_tokens is True
    for name, nado in loaded.nados.items():
        assert torch.equal(_r(nado), expected[name])
        assert not nado.training and not any(weight.requires_grad for weight in nado.parameters())
        assert loaded.optimizers[name].keys() == guidance.optimizers[name].keys()
        assert all(torch.equal(loaded.optimizers[name][k], v) for k, v in guidance.optimizers[name].items())
    assert list(loaded.nados) == list(guidance.nados)


def test_the_frozen_models_embeddings_are_not_saved_with_it(guidance: Guidance, tmp_path: Path) -> None:
    folder = tmp_path / "g"
    guidance.save(folder)
    embeddings_VD = guidance.nados["c"].embeddings_VD
    changed = Guidance.load(folder, torch.randn(embeddings_VD.shape, generator=generator_for(1)))
    assert not torch.equal(_r(changed.nados["c"]), _r(guidance.nados["c"]))
    assert all("embeddings" not in name for name in guidance.nados["c"].state_dict())


@pytest.mark.parametrize("fails_at", ["save_file", "second save_file", "write_json_atomic"])
@pytest.mark.parametrize("held", ["the old one", "none"])
def test_a_crash_while_it_is_written_leaves_the_old_one_or_none(
    guidance: Guidance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str, held: str
) -> None:
    folder = tmp_path / "g"
    embeddings_VD = guidance.nados["c"].embeddings_VD
    if held == "the old one":
        guidance.save(folder)
    before = _r(guidance.nados["c"])
    name = fails_at.rpartition(" ")[2]
    right, left = getattr(module, name), [1 if fails_at.startswith("second") else 0]

    def fails(*arguments: object) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        right(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, name, fails)
        _other(guidance).save(folder)
    assert Guidance.exists(folder) == (held == "the old one")
    if held == "the old one":
        assert Guidance.load(folder, embeddings_VD).version.iteration == 2
        assert torch.equal(_r(Guidance.load(folder, embeddings_VD).nados["c"]), before)
    _other(guidance).save(folder)  # what was left in pieces is no obstacle
    assert Guidance.load(folder, embeddings_VD).version.iteration == 3
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


def test_guidance_reads_hidden_states_as_soon_as_one_nado_does(guidance: Guidance) -> None:
    shapes = {name: nado.config for name, nado in guidance.nados.items()}
    guidance.nados["c"].config = shapes["c"].model_copy(update={"shape": "frozen"})
    assert guidance.reads_tokens is False


def test_every_tuple_of_seeds_has_a_stream_of_its_own() -> None:
    seeds = [(0,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0), (2**40, 3), (3, 2**40)]
    drawn = [torch.rand(4, generator=generator_for(*seed)).tolist() for seed in seeds]
    assert len({tuple(row) for row in drawn}) == len(seeds)
    before = torch.random.get_rng_state()
    torch.rand(3)
    assert torch.rand(4, generator=generator_for(0, 1)).tolist() == drawn[2]
    torch.random.set_rng_state(before)
