"""Features of the corpus are those of a pass of its own, are computed once, and do not depend on what was asked before."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from adhere.models.corpus_features import CorpusFeatures, worth_keeping
from adhere.models.frozen import FrozenModel, hidden_states

ROWS = [tuple(range(1, 1 + n)) for n in (5, 2, 9, 3)]
OTHERS = [(7, 7), (8, 9, 10, 11)]


@pytest.fixture
def reference(tiny_model: LlamaForCausalLM) -> FrozenModel:
    return FrozenModel(tiny_model, torch.float32)


def _batch(rows: list[tuple[int, ...]], width: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(width, *map(len, rows))
    tokens_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return tokens_BT, mask_BT


def test_features_are_those_of_a_lone_pass(reference: FrozenModel, tiny_model: LlamaForCausalLM) -> None:
    features = CorpusFeatures(reference, ROWS, OTHERS)
    for row in (*ROWS, *OTHERS):
        with torch.no_grad():
            alone_TD = hidden_states(tiny_model, *_batch([row]))[0]
        torch.testing.assert_close(features.of(row), alone_TD, atol=1e-5, rtol=1e-5)


def test_a_batch_is_put_together_from_its_rows_with_zeros_on_padding(reference: FrozenModel) -> None:
    features = CorpusFeatures(reference, ROWS)
    batch_BTD = features.batch(*_batch([ROWS[1], ROWS[0], ROWS[1]], width=7))
    assert batch_BTD is not None and batch_BTD.shape == (3, 7, 16)
    assert torch.equal(batch_BTD[0], batch_BTD[2]) and torch.equal(batch_BTD[1, :5], features.of(ROWS[0]))
    assert not batch_BTD[0, 2:].any() and batch_BTD[0, :2].any()


def test_a_batch_with_a_row_that_is_not_kept_has_to_be_read(reference: FrozenModel) -> None:
    features = CorpusFeatures(reference, ROWS)
    assert features.batch(*_batch([ROWS[0], (30, 29)])) is None
    with pytest.raises(KeyError):
        features.of((30, 29))


def test_each_row_is_read_once_and_to_the_same_bits_whatever_is_asked_first(
    reference: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adhere.models.corpus_features.ROWS_AT_ONCE", 2)
    passes: list[int] = []

    def counted(*arguments: object) -> torch.Tensor:
        passes.append(1)
        return hidden_states(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("adhere.models.corpus_features.hidden_states", counted)
    forwards, backwards = CorpusFeatures(reference, ROWS, OTHERS), CorpusFeatures(reference, ROWS[::-1], OTHERS)
    one = [forwards.of(row) for row in (*ROWS, *OTHERS, *ROWS)]
    assert len(passes) == 3
    other = [backwards.of(row) for row in (*OTHERS[::-1], *ROWS[::-1])][::-1]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=False))


def test_what_nado_is_fitted_on_is_batched_alone(reference: FrozenModel) -> None:
    """A process that keeps no other rows finds the same bits."""
    with_others, alone = CorpusFeatures(reference, ROWS, OTHERS), CorpusFeatures(reference, ROWS)
    assert all(torch.equal(with_others.of(row), alone.of(row)) for row in ROWS)


def test_further_rows_are_kept_where_that_saves_passes_and_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worth_keeping([*ROWS, *OTHERS], ROWS, visits=2, width=16) == set(OTHERS)
    assert worth_keeping([*ROWS, *OTHERS], ROWS, visits=1, width=16) == set()
    assert worth_keeping(ROWS, ROWS, visits=0, width=16) == set()
    monkeypatch.setattr("adhere.models.corpus_features.LARGEST", 6 * 16 * 2 - 1)
    assert worth_keeping([*ROWS, *OTHERS], ROWS, visits=100, width=16) == set()


def test_logits_are_those_of_a_pass_where_they_are_asked_for(
    reference: FrozenModel, tiny_model: LlamaForCausalLM
) -> None:
    features, rows = CorpusFeatures(reference, ROWS), [ROWS[0], ROWS[2]]
    batch_BTD = features.batch(*_batch(rows))
    where_BT = torch.zeros(2, 9, dtype=torch.bool)
    where_BT[0, 3], where_BT[1, 4:8] = True, True
    assert batch_BTD is not None
    logits_BTV = features.logits(batch_BTD, where_BT)
    with torch.no_grad():
        whole_BTV = tiny_model(*_batch(rows)).logits
    assert logits_BTV is not None
    torch.testing.assert_close(logits_BTV[where_BT], whole_BTV[where_BT], atol=1e-5, rtol=1e-5)
    assert not logits_BTV[~where_BT].any()


def test_a_head_that_is_more_than_a_product_has_to_be_passed_through(
    reference: FrozenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adhere.models.corpus_features.find_head", lambda _: None)
    assert CorpusFeatures(reference, ROWS).logits(torch.zeros(1, 3, 16), torch.ones(1, 3, dtype=torch.bool)) is None
