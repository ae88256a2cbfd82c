"""One process a run folder: `run.lock` says who is at work there. The lock of a process that died is taken over."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from adhere.errors import RunFolderError
from adhere.files import cannot_write

NAME = "run.lock"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock. `born` tells the process from a later one with the same number; empty where nothing tells."""

    pid: int
    host: str
    start: str
    born: str = ""

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return cls(os.getpid(), socket.gethostname(), now, _born(os.getpid()))

    def alive(self) -> bool:
        """False when the process is known to be gone; one of another machine counts as alive: nobody can tell here."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not self.born or self.born == _born(self.pid)


def lock_owner(folder: Path) -> Owner | None:
    """Who holds the lock of a run folder; None when nobody does, or the file says nothing that can be read."""
    try:
        return _parsed((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the run folder for the time of the block. A process that holds it already holds it on.

    Raises:
        RunFolderError: another process is at work there, or the lock cannot be written.
    """
    owner = Owner.me()
    if _same(lock_owner(folder), owner):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(folder / NAME, owner)
    except OSError as error:
        raise cannot_write(folder / NAME, error) from error
    try:
        yield
    finally:
        if _same(lock_owner(folder), owner):
            with suppress(OSError):
                (folder / NAME).unlink()


def refuse_if_held(folder: Path) -> None:
    """Raises RunFolderError when another process is at work in the folder."""
    _refuse(lock_owner(folder), folder / NAME)


def _refuse(other: Owner | None, path: Path) -> None:
    if other is not None and not _same(other, Owner.me()) and other.alive():
        raise RunFolderError(
            f"{path.parent} is in use: process {other.pid} on {other.host} has been at work there since {other.start}. "
            f"Wait for it or stop it, or choose another output folder (if it is surely gone, delete {path})"
        )


def _take(path: Path, owner: Owner) -> None:
    while True:
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # while looking and writing: two that find a stale lock take it in turn
            if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                continue  # its owner let it go in between
            file.seek(0)
            other = _parsed(file.read())
            _refuse(other, path)
            file.truncate(0)
            file.write(json.dumps(asdict(owner)) + "\n")
            return


def _parsed(text: str) -> Owner | None:
    try:
        told = json.loads(text)
        return Owner(int(told["pid"]), str(told["host"]), str(told.get("start", "?")), str(told.get("born", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _same(one: Owner | None, other: Owner) -> bool:
    return one is not None and (one.pid, one.host, one.born) == (other.pid, other.host, other.born)


def _born(pid: int) -> str:
    """When the process was started, in the kernel's own ticks since boot; empty where there is no /proc."""
    try:
        # The name, in brackets, may hold anything; field 22 counts from the process number.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
