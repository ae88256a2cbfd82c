"""Pairs of outputs to one prompt, ranked by the oracles."""

from __future__ import annotations

import pytest
from datasets import Dataset

from adhere.baselines.pairs import Candidate, Pair, check_pairs, corpus_candidates, pairs_of, sampled_candidates
from adhere.errors import RecipeError
from adhere.records import LabelledSample, Sample, Verdict

A, B = (1, 2), (3,)


def _candidate(prompt: tuple[int, ...], output: int, *scores: float | None) -> Candidate:
    return Candidate(prompt, (output,), scores)


def test_the_best_is_paired_with_the_worst_and_each_output_stands_in_one_pair() -> None:
    candidates = [_candidate(A, 10, 0.1), _candidate(A, 11, 0.9), _candidate(A, 12, 0.6), _candidate(A, 13, 0.3),
                  _candidate(A, 14, 0.2)]  # fmt: skip
    assert pairs_of(candidates) == [Pair(A, (11,), (10,)), Pair(A, (12,), (14,))]


def test_only_outputs_to_the_same_prompt_are_paired() -> None:
    assert pairs_of([_candidate(A, 10, 1.0), _candidate(B, 11, 0.0)]) == []
    assert pairs_of([_candidate(A, 10, 1.0), _candidate(B, 11, 0.0), _candidate(A, 12, 0.0)]) == [Pair(A, (10,), (12,))]


def test_one_that_violates_any_constraint_is_never_chosen() -> None:
    both, one = _candidate(A, 10, 1.0, 1.0), _candidate(A, 11, 1.0, 0.0)
    assert pairs_of([one, both]) == [Pair(A, (10,), (11,))]
    assert pairs_of([one, _candidate(A, 12, 0.0, 1.0)]) == []


def test_what_has_no_verdict_is_neither_chosen_nor_rejected() -> None:
    assert pairs_of([_candidate(A, 10, None), _candidate(A, 11, 0.0), _candidate(A, 12, 1.0, None)]) == []
    assert not _candidate(A, 10, 1.0, None).satisfies


def test_equal_outputs_make_no_pair() -> None:
    assert pairs_of([_candidate(A, 10, 1.0), _candidate(A, 10, 0.0)]) == []


def test_pairs_are_made_for_the_prompts_asked_for_in_their_order() -> None:
    candidates = [_candidate(prompt, number, score) for prompt in (A, B) for number, score in ((10, 1.0), (11, 0.0))]
    assert [pair.prompt_ids for pair in pairs_of(candidates)] == [A, B]
    assert [pair.prompt_ids for pair in pairs_of(candidates, [B, A, B])] == [B, A]
    assert [pair.prompt_ids for pair in pairs_of(candidates, [B, (9,)])] == [B]


def test_samples_and_corpus_rows_become_candidates() -> None:
    def labelled(output_ids: tuple[int, ...], score: float | None) -> LabelledSample:
        return LabelledSample(
            Sample(0, 0, "p", "o", A, output_ids, True, -1.0), {"a": Verdict(score), "b": Verdict(1.0)}
        )

    found = sampled_candidates([labelled((7, 8), 0.0), labelled((), 1.0), labelled((9,), None)])
    assert found == [Candidate(A, (7, 8), (0.0, 1.0)), Candidate(A, (9,), (None, 1.0))]
    rows = Dataset.from_dict({"row": [4, 2], "input_ids": [[1, 2, 5], [3, 6, 7]], "prompt_length": [2, 1]})
    verdicts = {2: {"a": Verdict(0.0)}, 4: {"a": Verdict(1.0)}}
    assert corpus_candidates(rows, verdicts) == [Candidate(A, (5,), (1.0,)), Candidate(B, (6, 7), (0.0,))]


def test_no_pair_at_all_is_an_error_that_says_what_there_was_and_what_to_do() -> None:
    candidates = [_candidate(A, 10, 1.0), _candidate(B, 11, 0.0), _candidate(B, 12, None)]
    with pytest.raises(
        RecipeError, match=r"no pair among 3 outputs: 1 satisfy, 1 violate, 1 are without a verdict.*corpus: true"
    ):
        check_pairs([], candidates)
    check_pairs([Pair(A, (1,), (2,))], candidates)
