from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from adhere import files
from adhere.errors import RunFolderError
from adhere.files import append_line, append_whole, cut_torn_line, whole_file, write_json_atomic, write_text_atomic

FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_after(monkeypatch: pytest.MonkeyPatch, room: int, error: BaseException = FULL) -> None:
    """A disk with room for so many bytes: `os.write` writes what fits, then raises."""
    real, left = os.write, [room]

    def write(descriptor: int, content: bytes | memoryview) -> int:
        if not left[0]:
            raise error
        written = real(descriptor, content[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)


def test_a_text_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    for text in ("old é\r\n", "new\n", ""):
        write_text_atomic(path, text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("where", ["block", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise FULL

    if where != "block":
        monkeypatch.setattr(os, where, fail)
    with (
        pytest.raises(RunFolderError, match=r"no space left to write .*file\.txt: free some"),
        whole_file(path) as part,
    ):
        part.write_text("half")
        if where == "block":
            raise FULL
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_an_error_of_the_block_itself_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole_file(tmp_path / "file") as part:
        part.write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("half")
        assert path.read_text() == "old"
    assert path.read_text() == "half"


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"é": [1, 0.1 + 0.2, None, True], "deep": {"x": "\u2028\n"}}
    write_json_atomic(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes()) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}])
def test_what_json_has_no_form_for_is_refused_before_the_file_is_touched(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        write_json_atomic(path, value)
    assert path.read_text() == "old"


def test_a_folder_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunFolderError, match=r"cannot write .*everything before it is kept"):
        write_text_atomic(tmp_path / "taken" / "file", "text")
    with pytest.raises(RunFolderError, match="cannot write"):
        append_whole(tmp_path, b"text")


@pytest.mark.parametrize("room", range(6))
def test_a_full_disk_cuts_an_append_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    path = tmp_path / "log"
    append_whole(path, b"old\n")
    with monkeypatch.context() as patch:
        fail_after(patch, room)
        with pytest.raises(RunFolderError, match="no space left"):
            append_whole(path, b"newer\n")
    assert path.read_bytes() == b"old\n"
    append_whole(path, b"newer\n")
    assert path.read_bytes() == b"old\nnewer\n"


def test_an_append_that_is_interrupted_is_cut_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        append_whole(tmp_path / "log", b"newer\n")
    assert (tmp_path / "log").read_bytes() == b""


def test_a_disk_that_takes_a_byte_at_a_time_gets_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:1]))
    append_whole(tmp_path / "log", b"bytes\n")
    assert (tmp_path / "log").read_bytes() == b"bytes\n"


def test_what_is_appended_is_on_the_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    append_whole(tmp_path / "log", b"x")
    assert synced == [(tmp_path / "log").stat().st_ino, tmp_path.stat().st_ino]  # the file, and that it exists


def test_lines_are_appended(tmp_path: Path) -> None:
    for line in ("one", "", "drei ß"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\n\ndrei ß\n"
    with pytest.raises(ValueError, match="one line, got 2"):
        append_line(tmp_path / "log", "a\nb")


@pytest.mark.parametrize("size", range(9))
def test_a_line_that_was_torn_anywhere_is_removed_before_the_next(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n"[:size])
    append_line(path, "new")
    assert path.read_bytes() == {0: b"", 1: b"one\n", 2: b"one\ntwo\n"}[size // 4] + b"new\n"


def test_a_torn_line_longer_than_a_block_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"one\n"
    cut_torn_line(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_the_advice_fits_the_cause() -> None:
    assert "no space left" in str(files.cannot_write(Path("a"), OSError(errno.EDQUOT, "Quota exceeded")))
    assert "Permission denied" in str(files.cannot_write(Path("a"), PermissionError(errno.EACCES, "Permission denied")))
