"""Fetching by name, version and sha256: the real pip with a folder for an index, and everything that can fail."""

import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest

from adhere import downloads
from adhere.downloads import (
    build_once,
    cache_folder,
    extract_from_wheel,
    fetch_wheel,
    read_from_wheel,
    sha256_of,
)
from adhere.errors import DownloadError

FILE_NAME = "tiny_thing-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(folder: Path, text: str = "the data") -> Path:
    wheel = folder / FILE_NAME
    info = "tiny_thing-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_thing/data.txt", text)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\nRequires-Python: <3\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def no_pip(*_: object, **__: object) -> None:
    raise AssertionError("pip was run")


def test_a_wheel_is_fetched_once_and_read_from_the_cache_afterwards(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256_of(make_wheel(index))
    fetched = fetch_wheel("tiny-thing", "1.0", digest)
    assert fetched == cache / "wheels" / FILE_NAME
    assert read_from_wheel(fetched, "tiny_thing/data.txt") == b"the data"
    monkeypatch.setattr(subprocess, "run", no_pip)
    assert fetch_wheel("tiny-thing", "1.0", digest) == fetched


def test_a_wheel_with_another_digest_is_refused_and_not_kept(index: Path, cache: Path) -> None:
    make_wheel(index, "something else")
    with pytest.raises(DownloadError, match=r"(?is)tiny-thing 1\.0.*hash") as caught:
        fetch_wheel("tiny-thing", "1.0", "0" * 64)
    assert f"sha256 {'0' * 64}" in str(caught.value)
    assert not list(cache.rglob("*.whl"))


def test_the_digest_is_checked_even_if_pip_does_not(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        make_wheel(Path(command[command.index("--dest") + 1]), "something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", careless_pip)
    with pytest.raises(DownloadError, match="instead of 0000"):
        fetch_wheel("tiny-thing", "1.0", "0" * 64)
    assert not list(cache.rglob("*.whl"))


def test_without_network_the_message_says_which_file_to_put_where(index: Path, cache: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_wheel("tiny-thing", "1.0", "ab" * 32)
    message = str(caught.value)
    assert "tiny-thing==1.0" in message  # what pip said
    assert f"get {FILE_NAME} (project tiny-thing, version 1.0, sha256 {'ab' * 32})" in message
    assert str(cache / "wheels" / FILE_NAME) in message


def test_a_file_put_there_by_hand_is_taken(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", no_pip)
    (cache / "wheels").mkdir(parents=True)
    wheel = make_wheel(cache / "wheels")
    assert fetch_wheel("tiny-thing", "1.0", sha256_of(wheel)) == wheel


def test_a_damaged_file_in_the_cache_is_fetched_again(index: Path, cache: Path) -> None:
    digest = sha256_of(make_wheel(index))
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / FILE_NAME).write_bytes(b"half a whe")
    assert sha256_of(fetch_wheel("tiny-thing", "1.0", digest)) == digest


def test_a_python_without_pip_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"has no pip .*ensurepip(?s:.*)by hand"):
        fetch_wheel("tiny-thing", "1.0", "0" * 64)


@pytest.mark.parametrize("function", [read_from_wheel, lambda w, m: extract_from_wheel(w, m, w.parent)])
def test_a_missing_member_and_a_file_that_is_no_wheel_are_download_errors(function, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no/such"):
        function(make_wheel(tmp_path), "no/such")
    (tmp_path / "not.whl").write_bytes(b"not a zip file")
    with pytest.raises(DownloadError, match=r"data\.txt"):
        function(tmp_path / "not.whl", "tiny_thing/data.txt")


def test_a_member_is_extracted_under_its_own_name(tmp_path: Path) -> None:
    assert extract_from_wheel(make_wheel(tmp_path), "tiny_thing/data.txt", tmp_path) == tmp_path / "data.txt"
    assert (tmp_path / "data.txt").read_text() == "the data"


def test_a_folder_is_built_once(cache: Path) -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "file").write_text("whole")

    assert build_once("thing", build) == build_once("thing", build) == cache / "thing"
    assert (cache / "thing" / "file").read_text() == "whole"
    assert len(builds) == 1


def test_an_interrupted_build_leaves_nothing_and_the_next_one_starts_clean(cache: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once("thing", interrupted)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    # What a killed process leaves behind is not mistaken for the work of the next one.
    (cache / ".thing.partial").mkdir()
    (cache / ".thing.partial" / "half").write_text("half")
    built = build_once("thing", lambda folder: (folder / "file").touch())
    assert [path.name for path in built.iterdir()] == ["file"]


def test_two_that_ask_at_once_build_once(cache: Path) -> None:
    builds = []

    def slow(folder: Path) -> None:
        builds.append(folder)
        time.sleep(0.05)

    threads = [threading.Thread(target=build_once, args=("thing", slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_a_cache_that_cannot_be_written_names_the_variable_that_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "a file"))
    with pytest.raises(DownloadError, match="ADHERE_CACHE"):
        build_once("thing", lambda folder: None)


def test_no_space_left_is_a_download_error_and_leaves_nothing(cache: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DownloadError, match="No space left"):
        build_once("thing", full)
    assert not (cache / "thing").exists()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder().name == "cache"
    monkeypatch.delenv("ADHERE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/adhere")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "adhere"
