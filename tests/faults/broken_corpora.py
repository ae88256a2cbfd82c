"""Corpora that cannot be learned from, each as the bytes of a file with its suffix."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

Broken = dict[str, tuple[str, bytes]]
"""By what is wrong with it: the suffix of the file, and its bytes."""

_GOOD = b'{"text": "one two three four five six"}\n'
_TURNS = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def broken_corpora() -> Broken:
    """All of them."""
    return {**_jsonl(), **_values(), **_messages(), **_csv(), **_parquet(), **_not_what_they_say()}


def _rows(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _jsonl() -> Broken:
    texts: dict[str, bytes] = {
        "empty file": b"",
        "a byte order mark alone": b"\xef\xbb\xbf",
        "line feeds alone": b"\n\n\n",
        "white space alone": b"   \t \n",
        "an empty object": b"{}\n",
        "prose": b"once upon a time\n",
        "one JSON list of all rows": json.dumps([{"text": "a b c d e f"}] * 3).encode(),
        "JSON over several lines": json.dumps({"text": "a b c d e f"}, indent=1).encode(),
        "a line cut off": _GOOD + b'{"text": "one two thr',
        "a line cut off in the middle of the file": _GOOD + b'{"text": "one tw\n' + _GOOD,
        "two objects on a line": _GOOD.strip() + _GOOD,
        "a comma after each line": _GOOD.strip() + b",\n" + _GOOD,
        "single quotes": b"{'text': 'one two three four five'}\n",
        "a number": _GOOD + b"7\n",
        "a string": _GOOD + b'"one two three four five six"\n',
        "null": _GOOD + b"null\n",
        "a list": _GOOD + b'["one two three four five six"]\n',
        "NaN as a row": _GOOD + b"NaN\n",
        "a control character in a string": _GOOD + b'{"text": "one\x01two three four five"}\n',
        "a thousand brackets": _GOOD + b"[" * 100_000 + b"\n",
        "a number of ten thousand digits": _GOOD
        + b'{"text": "one two three four five", "n": '
        + b"9" * 10_000
        + b"}\n",
        "a wrong escape": _GOOD + b'{"text": "\\x41 two three four five six"}\n',
        "half a character": _GOOD + b'{"text": "one two three four \\ud800 six"}\n',
        "Latin-1": _GOOD + '{"text": "caf\xe9 au lait pour deux personnes"}\n'.encode("latin-1"),
        "UTF-16": '{"text": "one two three four five six"}\n'.encode("utf-16"),
        "UTF-16 without a mark": '{"text": "one two three four five six"}\n'.encode("utf-16-le"),
        "bytes that are no text": bytes(range(256)),
        "null bytes": b"\x00" * 1000,
        "an overlong encoding": _GOOD + b'{"text": "one two three four \xc0\xaf six"}\n',
        "a line of ten million characters": _GOOD + json.dumps({"text": "word " * 2_000_000}).encode() + b"\n",
        "ten million characters without a line feed": b"a" * 10_000_000,
        "a row of two million characters": _GOOD + _rows({"text": "x " * 1_000_000}),
        "a page of HTML": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "carriage returns alone as line ends": _GOOD.replace(b"\n", b"\r") * 2,
    }
    return {what: (".jsonl", content) for what, content in texts.items()}


def _values() -> Broken:
    good = {"text": "one two three four five six"}
    wrong: dict[str, Any] = {
        "no text": {"title": "x"},
        "text is null": {"text": None},
        "text is empty": {"text": ""},
        "text is white space": {"text": " \n\t "},
        "text is a number": {"text": 7},
        "text is true": {"text": True},
        "text is a list": {"text": ["one two", "three four"]},
        "text is an object": {"text": {"en": "one two"}},
        "text is an infinite number": {"text": float("inf")},
        "a prompt without completion": {"prompt": "one two"},
        "a completion without prompt": {"completion": "one two"},
        "an empty completion": {"prompt": "one", "completion": ""},
        "a completion that is a number": {"prompt": "one", "completion": 4},
        "a prompt that is a list": {"prompt": ["one"], "completion": "two"},
        "text and prompt and completion": {"text": "a b c d e f", "prompt": "a", "completion": "b"},
        "a domain that is a number": {"text": "one two three four five", "domain": 3},
        "a domain that is a list": {"text": "one two three four five", "domain": ["a"]},
        "upper case": {"Text": "one two three four five"},
        "another shape in the middle": {"prompt": "one two", "completion": " three four"},
    }
    found: Broken = {f"{what}, in the middle": (".jsonl", _rows(good, row, good)) for what, row in wrong.items()}
    return {**found, "nothing but prompts of four words": (".jsonl", _rows({"text": "one two three"}))}


def _messages() -> Broken:
    wrong: dict[str, Any] = {
        "messages that are null": None,
        "messages that are empty": [],
        "messages that are a string": "hello",
        "messages that are an object": {"role": "user", "content": "x"},
        "messages that are numbers": [1, 2],
        "messages that are strings": ["hello", "good day"],
        "a message without role": [{"content": "x"}, _TURNS[1]],
        "a message without content": [{"role": "user"}, _TURNS[1]],
        "a role that is a number": [{"role": 1, "content": "x"}, _TURNS[1]],
        "content that is a list": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, _TURNS[1]],
        "content that is null": [{"role": "user", "content": None}, _TURNS[1]],
        "messages that are nested": [_TURNS],
        "a conversation that begins with the assistant": [_TURNS[1]],
        "no assistant turn in the whole corpus": [_TURNS[0], _TURNS[0]],
        "assistant turns that say nothing": [_TURNS[0], {"role": "assistant", "content": "  "}],
        "half a character in a message": [_TURNS[0], {"role": "assistant", "content": "\ud800"}],
        "two million characters in a message": [_TURNS[0], {"role": "assistant", "content": "x " * 1_000_000}],
    }
    return {what: (".jsonl", _rows({"messages": value})) for what, value in wrong.items()}


def _csv() -> Broken:
    texts: dict[str, bytes] = {
        "CSV without rows": b"text\n",
        "CSV without the column": b"title\none two three four five six\n",
        "CSV with a quote that never ends": b'text,n\n"one two three four five six,1\nseven,2\n',
        "CSV with text after a quote": b'text,n\n"one two three" four five six,1\n',
        "CSV with a comma too many": b"text\none, two, three, four, five, six\n",
        "CSV with a field too few": b"text,n\none two three four five six\n",
        "CSV with an empty text": b"text,n\n,1\n",
        "CSV that is UTF-16": "text\none two three four five six\n".encode("utf-16"),
        "CSV in Latin-1": b"text\ncaf\xe9 au lait pour deux\n",
        "CSV with semicolons": b"text;n\none two three four five six;1\n",
        "CSV with a line of ten million characters": b"text\n" + b"word " * 2_000_000 + b"\n",
        "CSV that is empty": b"",
        "CSV with a header alone, and no line feed": b"text",
        "CSV with an empty header": b"\n\n\n",
    }
    return {what: (".csv", content) for what, content in texts.items()}


def _parquet() -> Broken:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(**columns: Any) -> bytes:
        stream = io.BytesIO()
        pq.write_table(pa.table(columns), stream)
        return stream.getvalue()

    whole = table(text=["one two three four five six"] * 1000)
    files = {
        "Parquet cut in half": whole[: len(whole) // 2],
        "Parquet without its last byte": whole[:-1],
        "Parquet without its beginning": whole[4:],
        "Parquet with bytes changed in the middle": whole[:20] + b"\xff" * 40 + whole[60:],
        "Parquet with another footer": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "Parquet that is four letters": b"PAR1",
        "Parquet that is JSON": _GOOD,
        "Parquet that is empty": b"",
        "Parquet without rows": table(text=pa.array([], pa.string())),
        "Parquet without the column": table(title=["one two"]),
        "Parquet with numbers": table(text=[1, 2, 3]),
        "Parquet with lists": table(text=[["one", "two"]]),
        "Parquet with bytes": table(text=[b"\xff\xfe\x00"]),
        "Parquet with a null": table(text=["one two three four five six", None]),
    }
    return {what: (".parquet", content) for what, content in files.items()}


def _not_what_they_say() -> Broken:
    zipped = gzip.compress(_GOOD * 100)
    return {
        "gzip called JSONL": (".jsonl", zipped),
        "gzip cut in half": (".jsonl.gz", zipped[: len(zipped) // 2]),
        "gzip": (".jsonl.gz", zipped),
        "zlib called JSONL": (".jsonl", zlib.compress(_GOOD * 100)),
        "an unknown suffix": (".data", _GOOD),
        "no suffix": ("", _GOOD),
        "text without a form": (".txt", b"one two three four five six\n"),
        "JSONL called CSV": (".csv", _GOOD),
        "JSONL called Parquet": (".parquet", _GOOD * 10),
        "CSV called JSONL": (".jsonl", b"text\none two three four five six\n"),
        "an archive": (".jsonl", b"PK\x03\x04" + bytes(100)),
        "a pickle": (".jsonl", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94."),
    }
