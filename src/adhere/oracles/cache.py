"""Verdicts on this machine's disk, shared by runs and processes.

A verdict is found by a digest of who gave it (the oracle's name and version) and of what was judged; the texts themselves
are not kept. Entries are numbers under hexadecimal digests and nothing else: the pickles that diskcache would read and
write are refused.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import diskcache

from adhere.downloads import cache_folder
from adhere.errors import OracleError

FOLDER = "verdicts"
_SECONDS_FOR_A_LOCK = 60.0
_PAGES_IN_MEMORY = 512  # of 4 KiB
_FAULTS = (OSError, sqlite3.Error, diskcache.Timeout, TypeError, ValueError)


class NumbersOnly(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """Stores strings as keys and floats as values, in the database itself; reads nothing else."""

    def put(self, key: object) -> tuple[str, bool]:
        return (key, True) if type(key) is str else _refuse(key)

    def get(self, key: object, raw: bool) -> str:
        return key if raw and type(key) is str else _refuse(key)

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, float]:
        return (0, diskcache.core.MODE_RAW, None, value) if type(value) is float and not read else _refuse(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> float:
        plain = mode == diskcache.core.MODE_RAW and filename is None and type(value) is float
        return value if plain else _refuse(value)  # type: ignore[return-value]


def _refuse(what: object) -> NoReturn:
    raise ValueError(f"it holds a {type(what).__name__}, which is no verdict of ours")


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache of verdicts holds."""

    folder: Path
    verdicts: int
    bytes: int


class VerdictCache:
    """Verdicts by a digest.

    Args:
        folder: without it, `verdicts` in the cache folder.

    Raises:
        OracleError: from every method: the folder cannot be read or written, or holds something else than verdicts.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / FOLDER

    @staticmethod
    def digest(name: str, version: str, prompt: str | None, output: str) -> str:
        """What a verdict is found by.

        Args:
            name, version: the oracle's.
            prompt: None for an oracle that does not judge it.
            output: what is judged.
        """
        # Half a surrogate pair reaches a service as a question mark, so it is found as one.
        text = json.dumps([name, version, prompt, output], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    def get(self, digests: Sequence[str]) -> dict[str, float]:
        """The verdicts that are there."""
        try:
            found = {digest: self._store.get(digest) for digest in digests}
        except _FAULTS as error:
            raise self._cannot("read", error) from error
        # A number that is no score was not put there by us.
        return {digest: score for digest, score in found.items() if score is not None and 0.0 <= score <= 1.0}

    def put(self, scores: Mapping[str, float]) -> None:
        """Keep verdicts: when this returns they survive a killed process (the last ones, not always a power cut)."""
        try:
            with self._store.transact(retry=True):
                for digest, score in scores.items():
                    self._store.set(digest, float(score), retry=True)
        except _FAULTS as error:
            raise self._cannot("written", error) from error

    def info(self) -> CacheInfo:
        """How many verdicts, and the bytes they take."""
        if not self.folder.exists():
            return CacheInfo(self.folder, 0, 0)
        try:
            return CacheInfo(self.folder, len(self._store), self._store.volume())
        except _FAULTS as error:
            raise self._cannot("read", error) from error

    def clear(self) -> int:
        """Forget all verdicts; returns how many there were."""
        if not self.folder.exists():
            return 0
        try:
            return int(self._store.clear(retry=True))
        except _FAULTS as error:
            raise self._cannot("cleared", error) from error

    def close(self) -> None:
        """Close the database; asking again opens it."""
        if "_store" in self.__dict__:
            self._store.close()

    @cached_property
    def _store(self) -> Any:
        # Nothing is ever thrown out to make room: what was paid for stays until somebody clears it.
        return diskcache.Cache(
            str(self.folder),
            timeout=_SECONDS_FOR_A_LOCK,
            disk=NumbersOnly,
            eviction_policy="none",
            cull_limit=0,  # nor is it looked for with every verdict
            sqlite_mmap_size=0,  # or the process would seem to grow with the cache
            sqlite_cache_size=_PAGES_IN_MEMORY,
        )

    def _cannot(self, be_done: str, error: Exception) -> OracleError:
        return OracleError(
            f"the cache of verdicts in {self.folder} cannot be {be_done} ({str(error) or type(error).__name__}). Make room, or "
            "choose another folder with the environment variable ADHERE_CACHE; `limits: {cache: false}` goes without; if "
            "it is damaged, delete that folder"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}
