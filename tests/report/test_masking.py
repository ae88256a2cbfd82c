from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adhere.errors import OracleError
from adhere.oracles.base import Oracle
from adhere.report import masking
from adhere.report.masking import mask, mask_tokens, profane_words, try_profane_words


class Banned(Oracle):
    name, version = "banned", "1"

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked = list(outputs)
        return [None if word == "odd" else float(word != "darn") for word in outputs]


def shown(text: str, words: Sequence[str]) -> str:
    return "".join(piece.cover or piece.text for piece in mask(text, words))


def test_only_the_first_letter_of_a_masked_word_is_shown():
    assert shown("What the fudge, FUDGE! fudges", ["fudge"]) == "What the f••••, F••••! fudges"


def test_the_words_under_the_mask_are_kept_for_the_switch():
    pieces = mask("oh darn it", ["darn"])
    assert [(piece.text, piece.cover) for piece in pieces] == [("oh ", ""), ("darn", "d•••"), (" it", "")]


def test_phrases_are_masked_whole_and_only_where_they_stand_alone():
    assert shown("a blue moon rose; blue moons, Blue  sky", ["blue moon"]) == "a b••• •••• rose; blue moons, Blue  sky"
    assert shown("mail x.y@z.org now", ["x.y@z.org"]) == "mail x•••••••• now"


def test_a_word_cut_into_tokens_is_masked_across_them():
    pieces = mask_tokens([" oh", " fu", "dge", "!"], ["fudge"])
    assert [[piece.cover or piece.text for piece in token] for token in pieces] == [
        [" oh"],
        [" ", "f•"],
        ["•••"],
        ["!"],
    ]


@given(st.lists(st.text("abc .X", max_size=5), max_size=8), st.lists(st.text("abc .", max_size=4), max_size=3))
def test_masking_never_loses_or_moves_a_character(tokens, words):
    pieces = mask_tokens(tokens, words)
    assert ["".join(piece.text for piece in token) for token in pieces] == tokens
    assert all(len(piece.cover) in (0, len(piece.text)) for token in pieces for piece in token)


def test_each_different_word_is_asked_about_once_and_no_verdict_is_no_mask():
    oracle = Banned()
    assert profane_words(["Darn it, odd", "darn IT"], oracle) == {"darn"}
    assert oracle.asked == ["darn", "it", "odd"]
    assert profane_words([], oracle) == frozenset()


def test_the_embedded_oracle_finds_the_profane_words_of_a_sentence():
    assert profane_words(["Well, shit happens to the nicest people"]) == {"shit"}


def test_when_words_cannot_be_judged_all_are_masked_and_the_reason_is_told(monkeypatch):
    def unavailable(*_arguments: object) -> frozenset[str]:
        raise OracleError("it is not installed")

    monkeypatch.setattr(masking, "profane_words", unavailable)
    words, note = try_profane_words(["Some words"])
    assert words == {"some", "words"}
    assert "it is not installed" in note


@pytest.mark.parametrize("words", [[], [""], [" "]])
def test_nothing_to_mask_leaves_the_text_as_it_is(words):
    assert shown("plain text", words) == "plain text"
