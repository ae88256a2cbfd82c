from __future__ import annotations

import logging
import random
from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from adhere.data.corpus import examples_from_dataset
from adhere.data.prompts import prompts_from_examples
from adhere.data.split import holdout_split, normalised, without_texts_of
from adhere.errors import CorpusError


def corpus(*pairs: tuple[str, str]) -> Dataset:
    return Dataset.from_dict({"prompt": [p for p, _ in pairs], "completion": [c for _, c in pairs]})


def texts(examples: Dataset) -> list[str]:
    return [p + c for p, c in zip(examples["prompt"], examples["completion"], strict=True)]


NUMBERED = corpus(*((f"p{i}", f" c{i}") for i in range(100)))


def test_student_is_never_evaluated_on_training_prompts() -> None:
    """Fault of earlier code (method.md §7). Texts are cut into prompts, so different texts may have the same prompt."""
    rows = [{"text": f"The {noun} was {word} {i}"} for i in range(30) for noun in ("film", "play") for word in "abc"]
    rows += [{"text": row["text"].upper()} for row in rows[::7]]  # and the same text may come twice, written otherwise
    rows += [{"text": f"Number {i} is not like any other"} for i in range(60)]
    train, heldout = holdout_split(examples_from_dataset(rows, prompt_words=4), 0.2, seed=1)
    trained_on = {normalised(prompt.text) for prompt in prompts_from_examples(train)}
    evaluated_on = {normalised(prompt.text) for prompt in prompts_from_examples(heldout)}
    assert len(evaluated_on) > 10
    assert trained_on.isdisjoint(evaluated_on)
    assert {normalised(t) for t in texts(train)}.isdisjoint(normalised(t) for t in texts(heldout))
    assert sorted(texts(train) + texts(heldout)) == sorted(row["text"] for row in rows)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "A ", "b", "c"]), st.sampled_from([" x", " X", " y", " z"])), min_size=2
    ),
    st.integers(0, 5),
)
def test_no_text_is_on_both_sides(pairs: list[tuple[str, str]], seed: int) -> None:
    examples = corpus(*pairs)
    try:
        train, heldout = holdout_split(examples, 0.3, seed)
    except CorpusError:
        assert min(Counter(map(normalised, texts(examples))).values()) > max(1, round(0.3 * len(pairs)))
        return
    assert len(heldout) <= max(1, round(0.3 * len(pairs)))
    assert {normalised(t) for t in texts(train)}.isdisjoint(normalised(t) for t in texts(heldout))
    assert Counter(texts(train) + texts(heldout)) == Counter(texts(examples))


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 10), (0.25, 25), (0.999, 99), (0.001, 1)])
def test_as_many_are_held_out_as_asked(fraction: float, count: int) -> None:
    train, heldout = holdout_split(NUMBERED, fraction)
    assert (len(train), len(heldout)) == (100 - count, count)


def test_nothing_is_held_out_when_none_is_asked() -> None:
    train, heldout = holdout_split(NUMBERED, 0)
    assert (len(train), len(heldout)) == (100, 0)
    assert heldout.column_names == NUMBERED.column_names


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    order = list(range(100))
    random.Random(0).shuffle(order)
    first, second = holdout_split(NUMBERED, 0.2)[1], holdout_split(NUMBERED.select(order), 0.2)[1]
    assert sorted(texts(first)) == sorted(texts(second))


def test_rows_keep_their_order() -> None:
    for part in holdout_split(NUMBERED, 0.3):
        numbers = [int(prompt[1:]) for prompt in part["prompt"]]
        assert numbers == sorted(numbers)


def test_another_seed_holds_out_other_rows() -> None:
    assert texts(holdout_split(NUMBERED, 0.2, seed=0)[1]) != texts(holdout_split(NUMBERED, 0.2, seed=1)[1])
    assert texts(holdout_split(NUMBERED, 0.2, seed=1)[1]) == texts(holdout_split(NUMBERED, 0.2, seed=1)[1])


def test_new_rows_move_few_old_ones() -> None:
    before = set(texts(holdout_split(NUMBERED, 0.2)[1]))
    grown = corpus(*((f"p{i}", f" c{i}") for i in range(110)))
    after = set(texts(holdout_split(grown, 0.2)[1]))
    assert len(before & after) >= 16


def test_the_turns_of_one_conversation_stay_together() -> None:
    examples = corpus(*((f"p{i}", f" c{i}") for i in range(40))).add_column("source", [i // 4 for i in range(40)])
    train, heldout = holdout_split(examples, 0.3)
    assert len(heldout) == 12
    assert set(train["source"]).isdisjoint(heldout["source"])


def test_an_empty_prompt_ties_nothing_together(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(holdout_split(corpus(*(("", f"c{i}") for i in range(20))), 0.25)[1]) == 5
    assert caplog.records == []


def test_one_prompt_for_all_rows_is_split_by_text_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        heldout = holdout_split(corpus(*(("Tell a joke:", f" joke {i // 2}") for i in range(20))), 0.2)[1]
    assert len(heldout) == 4
    assert "only texts are kept apart" in caplog.text


def test_too_few_texts_to_split_are_a_clear_error() -> None:
    with pytest.raises(CorpusError, match=r"1 different texts in 3 rows: too few to hold 0\.5 of it out"):
        holdout_split(corpus(("a", " b"), ("A", " B"), ("a ", " b")), 0.5)
    with pytest.raises(CorpusError, match="too few"):
        holdout_split(corpus(("a", " b")), 0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        holdout_split(NUMBERED, fraction)


def test_what_a_heldout_file_holds_leaves_training() -> None:
    examples = corpus(("a", " same prompt"), ("Café", " x"), ("", "free"), ("", "other"), ("c", " y"))
    heldout = corpus(("A", " other end"), ("Cafe\u0301 x", ""), ("", "FREE"))
    assert texts(without_texts_of(examples, heldout)) == ["other", "c y"]


@pytest.mark.parametrize(
    ("one", "other"), [("A  b\n", "a b"), ("Straße", "STRASSE"), ("ﬁne", "fine"), ("é", "e\u0301")]
)
def test_texts_are_the_same_but_for_case_space_and_form(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
