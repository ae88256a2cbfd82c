from __future__ import annotations

import json
from pathlib import Path

import pytest

from adhere.digests import DIGESTS, broken, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "guidance" / "one"
    (path / "inner").mkdir(parents=True)
    (path / "weights").write_bytes(b"0123456789")
    (path / "inner" / "state").write_bytes(b"abc")
    (tmp_path / "samples.jsonl").write_text("{}\n")
    return path


def test_a_sealed_folder_is_whole_until_it_is_changed(folder: Path) -> None:
    assert broken(folder) is None
    seal(folder)
    assert broken(folder) == {}
    assert set(json.loads((folder / DIGESTS).read_text())) == {"weights", "inner/state"}


def test_every_kind_of_damage_is_told_by_file(folder: Path) -> None:
    seal(folder)
    (folder / "weights").write_bytes(b"0123456788")
    (folder / "inner" / "state").write_bytes(b"ab")
    assert broken(folder) == {
        folder / "weights": "has other bytes than were written (sha256)",
        folder / "inner" / "state": "has 2 bytes instead of 3",
    }
    (folder / "weights").unlink()
    assert (broken(folder) or {})[folder / "weights"] == "is missing"


def test_what_it_was_made_of_is_sealed_with_it_wherever_both_are_moved(folder: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    seal(folder, [samples, tmp_path / "none.jsonl"])
    assert broken(folder) == {}
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert broken(moved / "guidance" / "one") == {}
    (moved / "samples.jsonl").write_text("[]\n")
    assert list(broken(moved / "guidance" / "one") or {}) == [moved / "samples.jsonl"]
    moved.rename(tmp_path)


def test_a_folder_is_sealed_again_as_it_is_now(folder: Path) -> None:
    seal(folder)
    (folder / "more").write_text("x")
    assert broken(folder) == {}  # nobody sealed it
    seal(folder)
    (folder / "more").unlink()
    assert list(broken(folder) or {}) == [folder / "more"]


@pytest.mark.parametrize("content", ["{", "[]", '{"weights": 3}', '{"weights": {}}'])
def test_digests_that_cannot_be_read_are_damage_themselves(folder: Path, content: str) -> None:
    (folder / DIGESTS).write_text(content)
    assert list(broken(folder) or {}) == [folder / DIGESTS]
