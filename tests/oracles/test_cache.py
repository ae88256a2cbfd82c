"""Verdicts on disk: found again by other runs and processes, numbers only."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import OracleError
from adhere.oracles import CachedOracle, Oracle, judge
from adhere.oracles.cache import VerdictCache
from adhere.oracles.spending import spending_of

WRITER = """
import sys
from pathlib import Path
from adhere.oracles.cache import VerdictCache
cache, me = VerdictCache(Path(sys.argv[1])), int(sys.argv[2])
for n in range(150):
    cache.put({VerdictCache.digest("o", "1", None, f"{n}"): 0.25, VerdictCache.digest("o", "1", None, f"{me} {n}"): 0.5})
cache.close()
"""


class Counted(Oracle):
    """Satisfied without a `z`; no verdict on `?`; remembers what it was asked."""

    def __init__(self, name: str = "counted", version: str = "1", judges_prompt: bool = False) -> None:
        self.name, self.version, self.judges_prompt = name, version, judges_prompt
        self.asked: list[tuple[str, str]] = []

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        self.asked += zip(prompts, outputs, strict=True)
        return [None if output == "?" else float("z" not in output) for output in outputs]


@pytest.fixture
def cache(tmp_path: Path) -> VerdictCache:
    return VerdictCache(tmp_path / "verdicts")


def test_what_was_kept_is_found_and_nothing_else(cache: VerdictCache) -> None:
    one, two = VerdictCache.digest("a", "1", None, "x"), VerdictCache.digest("a", "1", None, "y")
    cache.put({one: 0.125})
    assert VerdictCache(cache.folder).get([one, two]) == {one: 0.125}
    cache.close()


def test_a_verdict_is_of_one_oracle_in_one_version_on_one_text() -> None:
    settings = [("a", "1", None, "x"), ("b", "1", None, "x"), ("a", "2", None, "x"), ("a", "1", "", "x")]
    settings += [("a", "1", "p", "x"), ("a", "1", None, "xx"), ("a1", "", None, "x"), ("a", "1", "x", "")]
    assert len({VerdictCache.digest(*each) for each in settings}) == len(settings)


def test_processes_that_write_at_once_lose_nothing(cache: VerdictCache) -> None:
    command = [sys.executable, "-c", WRITER, str(cache.folder)]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert cache.info().verdicts == 150 + 3 * 150
    digests = [VerdictCache.digest("o", "1", None, f"{me} {n}") for me in range(3) for n in range(150)]
    assert cache.get(digests) == dict.fromkeys(digests, 0.5)
    cache.close()


def test_no_pickle_is_written_or_read(cache: VerdictCache, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    digest = VerdictCache.digest("a", "1", None, "x")
    cache.put({digest: 1.0})
    cache.close()
    with closing(sqlite3.connect(cache.folder / "cache.db")) as database:
        stored = database.execute("SELECT key, raw, mode, value, filename FROM Cache").fetchall()
        assert stored == [(digest, 1, 1, 1.0, None)]
        pickled = sqlite3.Binary(pickle.dumps(Evil()))
        database.execute("UPDATE Cache SET mode = 4, value = ?", (pickled,))
        database.commit()
    with pytest.raises(OracleError, match="cannot be read"):
        VerdictCache(cache.folder).get([digest])
    with pytest.raises(OracleError, match="cannot be written"):
        VerdictCache(tmp_path / "other").put({digest: Evil()})  # type: ignore[dict-item]
    assert not (tmp_path / "ran").exists()


def test_a_number_that_is_no_score_is_not_taken_for_one(cache: VerdictCache) -> None:
    digest = VerdictCache.digest("a", "1", None, "x")
    cache.put({digest: 7.0})
    assert cache.get([digest]) == {}
    cache.close()


def test_texts_are_not_kept(cache: VerdictCache) -> None:
    oracle = CachedOracle(Counted(judges_prompt=True), cache)
    judge(oracle, ["a very secret prompt"], ["a very secret output"])
    cache.close()
    kept = b"".join(path.read_bytes() for path in cache.folder.rglob("*") if path.is_file())
    assert b"secret" not in kept


def test_it_can_be_cleared(cache: VerdictCache) -> None:
    assert (cache.info().verdicts, cache.clear()) == (0, 0)
    assert not cache.folder.exists()
    cache.put({VerdictCache.digest("a", "1", None, str(n)): 1.0 for n in range(5)})
    info = cache.info()
    assert (info.verdicts, info.folder) == (5, cache.folder)
    assert info.bytes > 0
    assert cache.clear() == 5
    assert cache.info().verdicts == 0
    cache.close()


def test_only_what_is_not_known_is_asked(cache: VerdictCache) -> None:
    first, second = Counted(), Counted()
    assert judge(CachedOracle(first, cache), [""] * 3, ["a", "z", "a"]) == [1.0, 0.0, 1.0]
    assert first.asked == [("", "a"), ("", "z")]
    cached = CachedOracle(second, VerdictCache(cache.folder))
    assert judge(cached, [""] * 4, ["z", "b", "a", "b"]) == [0.0, 1.0, 1.0, 1.0]
    assert second.asked == [("", "b")]
    assert cached.spending.calls_saved == 2
    assert spending_of(~cached & first).calls_saved == 2
    cached.close()
    cache.close()


def test_no_verdict_is_not_kept(cache: VerdictCache) -> None:
    oracle = Counted()
    cached = CachedOracle(oracle, cache)
    assert [judge(cached, [""], ["?"]) for _ in range(2)] == [[None], [None]]
    assert oracle.asked == [("", "?")] * 2
    cached.close()


def test_the_prompt_counts_where_it_is_judged(cache: VerdictCache) -> None:
    alone, with_prompt = Counted("alone"), Counted("both", judges_prompt=True)
    for oracle in (alone, with_prompt):
        cached = CachedOracle(oracle, cache)
        for prompt in ("one", "two"):
            judge(cached, [prompt], ["text"])
    assert alone.asked == [("", "text")]
    assert with_prompt.asked == [("one", "text"), ("two", "text")]
    cache.close()


def test_another_version_is_asked_anew(cache: VerdictCache) -> None:
    for version in ("1", "2"):
        oracle = Counted(version=version)
        judge(CachedOracle(oracle, cache), [""], ["text"])
        assert len(oracle.asked) == 1
    cache.close()


def test_a_broken_cache_costs_calls_and_never_verdicts(tmp_path: Path) -> None:
    folder = tmp_path / "verdicts"
    folder.mkdir()
    (folder / "cache.db").write_bytes(b"this is no database" * 100)
    cached = CachedOracle(oracle := Counted(), VerdictCache(folder))
    with pytest.warns(UserWarning, match=r"oracle 'counted' goes on without its cache: .*ADHERE_CACHE"):
        assert judge(cached, [""] * 2, ["a", "z"]) == [1.0, 0.0]
    assert judge(cached, [""] * 2, ["a", "z"]) == [1.0, 0.0]  # warned of once
    assert len(oracle.asked) == 4


def test_a_disk_that_fills_up_costs_what_is_not_kept_and_no_verdict(cache: VerdictCache) -> None:
    digest = VerdictCache.digest("counted", "1", None, "a")
    cache.put({digest: 1.0})
    with closing(sqlite3.connect(cache.folder / "cache.db")) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON Cache BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    cached = CachedOracle(oracle := Counted(), cache)
    with pytest.warns(UserWarning, match="cannot be written .*disk is full.* Make room"):
        assert judge(cached, [""] * 3, ["a", "z", "b"]) == [1.0, 0.0, 1.0]
    assert oracle.asked == [("", "z"), ("", "b")]
    assert cache.info().verdicts == 1
    cached.close()


def test_it_lies_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path))
    assert VerdictCache().folder == tmp_path / "verdicts"
