"""What NADO is fitted on: which prefix is which position, and what the language models say there."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from adhere.guidance.evidence import Evidence, ReadEvidence, pad, read
from adhere.models.corpus_features import CorpusFeatures
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.records import LabelledSample, Sample, Verdict

SEQUENCES = [((1, 2), (3, 4, 5)), ((6,), (1,)), ((2, 2, 2, 7), (5, 4, 31)), ((9, 8), tuple(range(12)))]


def _evidence(on_policy: bool = True) -> list[Evidence]:
    return [Evidence(prompt, output, {"c": Verdict(1.0)}, on_policy=on_policy) for prompt, output in SEQUENCES]


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _alone(model: LlamaForCausalLM, item: ReadEvidence) -> tuple[torch.Tensor, torch.Tensor]:
    tokens_1T = torch.tensor([item.tokens])
    with torch.no_grad():
        mask_1T = torch.ones_like(tokens_1T)
        return hidden_states(model, tokens_1T, mask_1T)[0], model(tokens_1T).logits[0].log_softmax(-1)


def test_a_sample_becomes_evidence_with_its_importance() -> None:
    sample = Sample(0, 0, "ab", "c", (1, 2), (3, 31), True, -1.0, log_importance=0.7)
    verdicts = {"c": Verdict(0.0, (1.0, 0.0, 0.0))}
    assert Evidence.of(LabelledSample(sample, verdicts)) == Evidence((1, 2), (3, 31), verdicts, 0.7, True)


@pytest.mark.parametrize(
    ("prefix_scores", "settled"),
    [((1.0, 1.0, 0.0, 0.0), 2), ((1.0, 0.0, 1.0, 0.0), 3), ((0.0,) * 4, 0), ((1.0,) * 4, 4), (None, 4)],
)
def test_a_violation_is_dated_by_the_first_prefix_that_stays_violating(
    prefix_scores: tuple[float, ...] | None, settled: int
) -> None:
    item = Evidence((1, 2), (3, 4, 5), {"c": Verdict(0.0, prefix_scores)})
    assert item.violated_from("c") == settled  # beyond the last prefix (index 3) when nothing is settled


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_features_are_those_of_a_lone_forward_pass_whatever_the_padding(
    tiny_model: LlamaForCausalLM, batch_size: int
) -> None:
    reference = FrozenModel(tiny_model, torch.float32)
    ready = read(_evidence(), reference, tiny_model, asked=0, generator=_random(), batch_size=batch_size)
    assert [item.evidence for item in ready] == _evidence()
    for item in ready:
        assert item.features_TD is not None and item.log_p_CK is None
        torch.testing.assert_close(item.features_TD, _alone(tiny_model, item)[0], atol=1e-5, rtol=1e-5)


def test_asked_positions_hold_the_policys_log_softmax_after_as_many_output_tokens(tiny_model: LlamaForCausalLM) -> None:
    policy, reference = tiny_model, FrozenModel(tiny_model, torch.float32)
    with torch.no_grad():
        policy.lm_head.weight.mul_(1.5)  # the policy has moved on from the reference
    ready = read(_evidence(), reference, policy, asked=100, generator=_random())
    for item in ready:
        first, last = len(item.evidence.prompt_ids) - 1, len(item.tokens) - 2
        assert item.asked_C and set(item.asked_C) <= set(range(first, last + 1))  # each has an output token after it
        assert len(set(item.asked_C)) == len(item.asked_C) == min(4, len(item.evidence.output_ids))
        assert item.log_p_CK is not None
        torch.testing.assert_close(item.log_p_CK, _alone(policy, item)[1][item.asked_C], atol=1e-5, rtol=1e-5)
    # The first output token, predicted from the last prompt token, is among them; short outputs are asked everywhere.
    assert ready[0].asked_C == [1, 2, 3]
    assert ready[1].asked_C == [0]


def test_the_asked_positions_are_as_many_as_wanted_and_drawn_by_the_generator(tiny_model: LlamaForCausalLM) -> None:
    def asked(number: int, seed: int = 0) -> list[list[int]]:
        ready = read(_evidence() * 3, None, tiny_model, asked=number, generator=_random(seed))
        return [item.asked_C for item in ready]

    assert asked(0) == [[]] * 12
    assert sum(map(bool, asked(8))) == 2  # four positions a sequence
    assert asked(16) == asked(16)
    assert asked(16) != asked(16, seed=1)


def test_a_nado_that_reads_tokens_needs_no_features(tiny_model: LlamaForCausalLM) -> None:
    assert all(item.features_TD is None for item in read(_evidence(), None, tiny_model, asked=4, generator=_random()))


def test_features_of_corpus_rows_are_computed_once_and_of_samples_always(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(model: LlamaForCausalLM, tokens_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        passes.append(len(tokens_BT))
        return hidden_states(model, tokens_BT, mask_BT)

    for module in ("guidance.evidence", "models.corpus_features"):
        monkeypatch.setattr(f"adhere.{module}.hidden_states", counted)
    reference, rows = FrozenModel(tiny_model, torch.float32), _evidence(on_policy=False)
    corpus = CorpusFeatures(reference, [row.tokens for row in rows])
    first = read([*_evidence(), *rows], reference, tiny_model, asked=0, generator=_random(), corpus=corpus)
    assert passes == [4, 4]
    second = read([*_evidence(), *rows], reference, tiny_model, asked=0, generator=_random(), corpus=corpus)
    assert passes == [4, 4, 4]
    for one, other in zip(first, second, strict=True):
        assert one.features_TD is not None and other.features_TD is not None
        assert torch.equal(one.features_TD, other.features_TD)


def test_samples_have_the_same_features_to_the_bit_whether_the_corpus_is_known_or_not(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run has to read the corpus again: that must not change what the samples are batched with."""
    shapes: list[tuple[int, ...]] = []

    def watched(model: LlamaForCausalLM, tokens_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tokens_BT.shape))
        return hidden_states(model, tokens_BT, mask_BT)

    monkeypatch.setattr("adhere.guidance.evidence.hidden_states", watched)
    reference, rows = FrozenModel(tiny_model, torch.float32), _evidence(on_policy=False)
    corpus = CorpusFeatures(reference, [row.tokens for row in rows])
    seen = []
    for _ in range(2):
        shapes.clear()
        ready = read(
            [*rows, *_evidence()], reference, tiny_model, asked=0, generator=_random(), corpus=corpus, batch_size=3
        )
        seen.append((list(shapes), [item.features_TD for item in ready[4:]]))
    assert seen[0][0] == seen[1][0] and len(seen[0][0]) == 2
    assert all(torch.equal(one, other) for one, other in zip(seen[0][1], seen[1][1], strict=True))  # type: ignore[arg-type]


def test_padding_stands_on_the_right_and_is_masked() -> None:
    tokens_BT, mask_BT = pad([ReadEvidence(item, None) for item in _evidence()[:2]], torch.device("cpu"))
    assert tokens_BT.tolist() == [[1, 2, 3, 4, 5], [6, 1, 0, 0, 0]]
    assert mask_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
