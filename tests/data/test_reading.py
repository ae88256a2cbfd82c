from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhere.data.reading import read_lines, read_rows
from adhere.data.rows import MAX_CHARACTERS
from adhere.errors import CorpusError

ROWS = [{"text": "Ein Satz, mit Komma"}, {"text": 'und "Zeichen"\nund Zeile 日本'}]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(path: Path, **how: Any) -> list[dict[str, object]]:
    return [dict(row) for _, row in read_rows(path, **how)]


def test_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    jsonl = written(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    parquet = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)
    table = tmp_path / "c.csv"
    with open(table, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert rows_of(jsonl) == rows_of(parquet) == rows_of(table) == ROWS


def test_places_name_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", '{"text": "a"}\n\n{"text": "b"}')
    assert [place for place, _ in read_rows(path)] == [f"{path}, line 1", f"{path}, line 3"]
    table = written(tmp_path / "c.csv", 'text\n"two\nlines"\nthird\n')
    assert [place for place, _ in read_rows(table)] == [f"{table}, line 3", f"{table}, line 4"]


def test_the_format_can_be_told_where_the_suffix_does_not_tell(tmp_path: Path) -> None:
    path = written(tmp_path / "corpus", '{"text": "a"}\n')
    assert rows_of(path, file_format="jsonl") == [{"text": "a"}]
    with pytest.raises(CorpusError, match=r"suffix ''.*\.jsonl.*corpus\.format"):
        rows_of(path)


def test_reading_is_streaming(tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", '{"text": "a"}\nbroken\n')
    rows: Iterator[Any] = read_rows(path)
    assert next(rows)[1] == {"text": "a"}
    with pytest.raises(CorpusError, match="line 2"):
        next(rows)


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n'
    assert rows_of(written(tmp_path / "c.jsonl", content)) == [{"text": "a"}, {"text": "b"}]
    assert rows_of(written(tmp_path / "c.csv", b"\xef\xbb\xbftext\r\na\r\n")) == [{"text": "a"}]


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl: no such file \(working folder: "):
        rows_of(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_empty_file_and_a_folder_are_clear_errors(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CorpusError, match="the file is empty"):
        rows_of(written(tmp_path / f"empty.{suffix}", ""))
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(CorpusError, match="is a folder"):
        rows_of(tmp_path / f"folder.{suffix}")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_bytes_that_are_not_utf8_are_found_by_line_and_byte(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"c.{suffix}", b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(CorpusError, match=rf"c\.{suffix}, line 2, byte 14: 0xe9 is not UTF-8"):
        rows_of(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_line_of_ten_million_characters_is_refused(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"c.{suffix}", '{"text": "a"}\n{"text": "' + "x" * 10_000_000 + '"}\n')
    with pytest.raises(CorpusError, match="line 2: longer than 1,000,000 characters") as caught:
        rows_of(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("character", ["x", "é", "日", "😀"])
def test_the_limit_counts_characters_not_bytes(tmp_path: Path, character: str) -> None:
    path = written(tmp_path / "c.txt", character * MAX_CHARACTERS + "\r\nnext\n")
    assert [len(line) for _, line in read_lines(path)] == [MAX_CHARACTERS, 4]
    with pytest.raises(CorpusError, match="longer than"):
        list(read_lines(written(path, character * (MAX_CHARACTERS + 1) + "\n")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"line 1, column 13: not JSON: Expecting ',' delimiter; in '\{"),
        ("text", r"line 1, column 1: not JSON"),
        ('[{"text": "a"}]', "line 1: a list; every line is one JSON object"),
        ('"text"', "line 1: a string; every line"),
        ("null", "line 1: null; every line"),
        ("17", "line 1: a number; every line"),
        ("[" * 100_000, "line 1: not JSON: maximum recursion depth"),
        ("9" * 5000, "line 1: not JSON: Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_json_object_says_what_it_is(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        rows_of(written(tmp_path / "c.jsonl", line + "\n"))
    assert len(str(caught.value)) < 500


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_rows_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for suffix in ("jsonl", "csv", "parquet"):
        try:
            rows_of(written(folder / f"c.{suffix}", content))
        except CorpusError as error:
            assert f"c.{suffix}" in str(error)


def test_a_csv_row_of_another_width_than_the_header_is_found(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="line 3: 3 fields where the header has 2"):
        rows_of(written(tmp_path / "c.csv", "prompt,completion\na,b\na,b,c\n"))
    with pytest.raises(CorpusError, match="line 2: 1 fields where the header has 2"):
        rows_of(written(tmp_path / "c.csv", "prompt,completion\na\n"))


def test_a_csv_field_may_be_as_long_as_a_row(tmp_path: Path) -> None:
    usual = csv.field_size_limit()
    assert len(str(rows_of(written(tmp_path / "c.csv", "text\n" + "x" * 500_000 + "\n"))[0]["text"])) == 500_000
    assert csv.field_size_limit() == usual


def test_a_csv_quote_that_is_never_closed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="not CSV: unexpected end of data"):
        rows_of(written(tmp_path / "c.csv", 'text\n"open\n'))


def test_what_is_no_parquet_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"c\.parquet: not a Parquet file"):
        rows_of(written(tmp_path / "c.parquet", "no parquet at all, but long enough"))
