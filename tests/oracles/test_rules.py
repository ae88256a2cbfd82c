from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhere.errors import OracleError
from adhere.oracles import JsonOracle, LengthOracle, Oracle, RegexOracle, WordListOracle


def scores(oracle: Oracle, *texts: str) -> list[float | None]:
    return oracle.score([""] * len(texts), list(texts))


# -- regular expressions


def test_a_forbidden_pattern_may_stand_nowhere() -> None:
    assert scores(RegexOracle(r"\d{3}"), "call 555 now", "call 55 now", "") == [0.0, 1.0, 1.0]


def test_a_required_pattern_must_stand_somewhere() -> None:
    assert scores(RegexOracle(r"(?i)please", mode="required"), "Please go", "go") == [1.0, 0.0]


@pytest.mark.parametrize(
    "pattern", ["bad", r"(?i)\bbad\b", "^bad", r"[$^]", r"\$5", r"(a|b)+?c", r"(?<=x)y", r"(?<!x)y", "a{2,3}"]
)
def test_a_forbidden_pattern_that_looks_no_further_than_its_match_is_prefix_closed(pattern: str) -> None:
    assert RegexOracle(pattern).prefix_closed


@pytest.mark.parametrize(
    "pattern",
    [
        "bad$",
        r"bad\Z",
        r"bad\B",
        "bad(?=x)",
        "bad(?! word)",
        "x(?>a*)(?<=xaa)",
        "xa*+(?<=xaa)",
        "(?x) b # [\n $ # ]",
        r"a(?<!b\b)",
    ],
)
def test_a_pattern_that_more_text_may_undo_is_not(pattern: str) -> None:
    assert not RegexOracle(pattern).prefix_closed


def test_a_required_pattern_is_never_prefix_closed_unless_the_user_says_so() -> None:
    assert not RegexOracle("bad", mode="required").prefix_closed
    assert RegexOracle("^bad", mode="required", prefix_closed=True).prefix_closed
    assert not RegexOracle("bad", prefix_closed=False).prefix_closed


PIECES = [
    "a",
    "b",
    " ",
    ".",
    r"\w",
    r"\W",
    r"\b",
    r"\B",
    "$",
    "^",
    "(?=a)",
    "(?!b)",
    "(?<=a)",
    "(?<!b)",
    "[ab ]",
    "[^a]",
    "|",
]
PATTERNS = st.lists(
    st.tuples(st.sampled_from(PIECES), st.sampled_from(["", "", "", "*", "+", "?", "*+"])), min_size=1, max_size=5
)
SHORT = st.text(alphabet="ab .", max_size=6)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(pieces=PATTERNS, start=SHORT, boundary=st.sampled_from([" ", ".", "\n"]), rest=SHORT)
def test_no_pattern_shown_to_be_prefix_closed_is_undone_by_more_text(
    pieces: list[tuple[str, str]], start: str, boundary: str, rest: str
) -> None:
    try:
        oracle = RegexOracle("".join(piece + repeat for piece, repeat in pieces))
    except OracleError:
        return  # pieces that make no expression
    if oracle.prefix_closed and scores(oracle, start) == [0.0]:
        assert scores(oracle, start + boundary + rest) == [0.0]


def test_a_faulty_pattern_or_mode_is_refused() -> None:
    with pytest.raises(OracleError, match=r"'\(' is not a regular expression"):
        RegexOracle("(")
    with pytest.raises(OracleError, match="'forbidden' or 'required', got 'allowed'"):
        RegexOracle("a", mode="allowed")  # type: ignore[arg-type]


# -- words


def test_words_are_found_whole_and_in_any_case() -> None:
    oracle = WordListOracle(["Ass", "straße"])
    texts = ["an ASS.", "a class", "ass-backwards", "STRASSE", "grass ass", "assé", ""]
    assert scores(oracle, *texts) == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_a_phrase_is_found_over_any_white_space_but_not_in_pieces() -> None:
    assert scores(WordListOracle(["go to hell"]), "Go  to\nHELL!", "go to hello", "to hell") == [0.0, 1.0, 1.0]


def test_characters_with_a_meaning_in_expressions_are_taken_as_they_are() -> None:
    assert scores(WordListOracle(["a.b", "c++"]), "axb", "a.b", "use c++ now", "c+") == [1.0, 0.0, 0.0, 1.0]


def test_a_file_of_words_gives_the_same_oracle_as_the_list(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufeff# a comment\nNaïve\n\n  go to hell \n", encoding="utf-8")
    from_file, from_list = WordListOracle(path=tmp_path / "words.txt"), WordListOracle(["go to  hell", "naïve"])
    assert from_file.version == from_list.version
    assert scores(from_file, "so NAÏVE", "# a comment") == scores(from_list, "so NAÏVE", "# a comment") == [0.0, 1.0]


def test_words_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "latin.txt").write_bytes(b"na\xefve\n")
    for name, message in {"none.txt": "No such file", "latin.txt": "UTF-8", "empty.txt": "no words in"}.items():
        with pytest.raises(OracleError, match=message):
            WordListOracle(path=tmp_path / name)
    for words in ([], [" "]):
        with pytest.raises(OracleError, match="no words"):
            WordListOracle(words)
    with pytest.raises(OracleError, match="either words or the path"):
        WordListOracle()
    with pytest.raises(OracleError, match="either words or the path"):
        WordListOracle(["a"], path=tmp_path / "empty.txt")


def test_a_text_is_not_taken_for_a_list_of_its_characters() -> None:
    with pytest.raises(OracleError, match="must be a list of words, got the text 'darn'"):
        WordListOracle("darn")
    with pytest.raises(OracleError, match="must be a list of keys, got the text 'key'"):
        JsonOracle("key")


# -- length


def test_length_counts_words_or_characters_within_both_limits() -> None:
    assert scores(LengthOracle(2, 3), "", "one", "one two", " a\nb  c ", "a b c d") == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert scores(LengthOracle(maximum=3, unit="characters"), "", "日本語", "four") == [1.0, 1.0, 0.0]
    assert scores(LengthOracle(1), "", "one") == [0.0, 1.0]


def test_only_a_maximum_alone_is_prefix_closed() -> None:
    assert LengthOracle(maximum=3).prefix_closed
    assert not LengthOracle(1).prefix_closed
    assert not LengthOracle(1, 3).prefix_closed


@pytest.mark.parametrize(("minimum", "maximum"), [(None, None), (3, 2), (-1, None), (None, -1)])
def test_impossible_limits_are_refused(minimum: int | None, maximum: int | None) -> None:
    with pytest.raises(OracleError, match=f"got minimum {minimum} and maximum {maximum}"):
        LengthOracle(minimum, maximum)
    with pytest.raises(OracleError, match="'words' or 'characters', got 'tokens'"):
        LengthOracle(maximum=1, unit="tokens")  # type: ignore[arg-type]


# -- JSON


def test_only_valid_json_satisfies() -> None:
    texts = ['{"a": 1}', " [1, 2] ", "3", "", "{", "{'a': 1}", '{"a": 1} and more', "NaN", "[" * 100_000]
    assert scores(JsonOracle(), *texts) == [1.0] * 3 + [0.0] * 6


def test_required_keys_need_an_object_that_has_them_all() -> None:
    texts = ['{"a": 1, "b": null, "c": 2}', '{"a": 1}', '["a", "b"]', '"ab"']
    assert scores(JsonOracle(["a", "b"]), *texts) == [1.0, 0.0, 0.0, 0.0]


def test_json_is_not_prefix_closed() -> None:
    assert not JsonOracle().prefix_closed
    assert scores(JsonOracle(), '{"a":', '{"a": 1}') == [0.0, 1.0]


def test_each_rule_has_a_version_of_its_own() -> None:
    oracles = [
        RegexOracle("a"),
        RegexOracle("b"),
        RegexOracle("a", mode="required"),
        WordListOracle(["a"]),
        WordListOracle(["b"]),
        LengthOracle(1),
        LengthOracle(maximum=1),
        LengthOracle(1, unit="characters"),
        JsonOracle(),
        JsonOracle(["a"]),
    ]
    assert len({oracle.version for oracle in oracles}) == len(oracles)
