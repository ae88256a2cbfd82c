"""`label_file`: files larger than the memory, killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import CorpusError, OracleError, RunFolderError
from adhere.oracles import Oracle, judge
from adhere.oracles.config import CallableConfig
from adhere.recipe import label
from adhere.recipe.label import Labelled, label_file

ORACLE = CallableConfig(function="x:y")
TEXTS = ["fine", "bad", "later", "never", *(f"text {number}" for number in range(400))]


class Keeps(Oracle):
    """`bad` is bad, `never` gets no verdict, `later` none the first time; stops after so many outputs."""

    name, version = "keeps", "1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stop_after = 10**9

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        if len(self.asked) + len(outputs) > self.stop_after:
            raise KeyboardInterrupt
        self.asked += outputs
        return [self._said(output) for output in outputs]

    def _said(self, output: str) -> float | None:
        if output == "never" or (output == "later" and self.asked.count("later") == 1):
            return None
        return float(output != "bad")


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Keeps:
    made = Keeps()
    monkeypatch.setattr(CallableConfig, "build", lambda self: made)
    monkeypatch.setattr(label, "MOST", 64)
    return made


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps({"output": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)), "utf-8")
    return path


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_is_written_with_its_score_and_what_is_missing_is_asked_about_twice_more(
    oracle: Keeps, samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "labels.jsonl"
    assert label_file(samples, ORACLE, out) == Labelled(rows=404, judged=403, violations=1)
    assert [(row["output"], row["n"]) for row in _rows(out)] == [(text, n) for n, text in enumerate(TEXTS)]
    assert [row["score"] for row in _rows(out)] == [1.0, 0.0, 1.0, None, *[1.0] * 400]
    assert oracle.asked == [*TEXTS, "later", "never", "never"]
    assert [path.name for path in out.parent.iterdir()] == ["labels.jsonl"]


def test_what_was_judged_before_a_kill_is_not_judged_again(oracle: Keeps, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    oracle.stop_after = 200
    with pytest.raises(KeyboardInterrupt):
        label_file(samples, ORACLE, out)
    assert not out.exists()
    (journal,) = tmp_path.glob(".labels.jsonl.*.part")
    with journal.open("ab") as stream:
        stream.write(b'{"output": "text 1')  # killed while it wrote
    oracle.stop_after = 10**9
    done = len(oracle.asked)
    told: list[tuple[int, int]] = []
    label_file(samples, ORACLE, out, progress=lambda stage, *numbers, **_: told.append(numbers[:2]))
    assert oracle.asked == [*TEXTS, "later", "never", "never"]
    assert (done, len(TEXTS)) in told
    assert [row["output"] for row in _rows(out)] == TEXTS


def test_a_journal_of_other_rows_counts_as_far_as_it_is_the_same(oracle: Keeps, samples: Path, tmp_path: Path) -> None:
    oracle.stop_after = 200
    with pytest.raises(KeyboardInterrupt):
        label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[100] = '{"output": "changed", "n": 100}\n'
    samples.write_text("".join(lines), encoding="utf-8")
    oracle.stop_after, before = 10**9, len(oracle.asked)
    label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    assert oracle.asked[before : before + 2] == ["changed", TEXTS[101]]
    assert _rows(tmp_path / "labels.jsonl")[100]["output"] == "changed"


def test_another_version_of_the_oracle_judges_everything(oracle: Keeps, samples: Path, tmp_path: Path) -> None:
    oracle.stop_after = 200
    with pytest.raises(KeyboardInterrupt):
        label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    oracle.version, oracle.stop_after, oracle.asked = "2", 10**9, []
    label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    assert oracle.asked[: len(TEXTS)] == TEXTS


def test_a_broken_row_at_the_end_is_found_before_anything_is_judged(
    oracle: Keeps, samples: Path, tmp_path: Path
) -> None:
    for broken, said in (
        ('{"n": 1}', "line 405: no output"),
        ('{"output": "\\ud800"}', "line 405: .*half a character"),
    ):
        samples.write_text("".join(f"{json.dumps({'output': text})}\n" for text in TEXTS) + broken, encoding="utf-8")
        with pytest.raises(CorpusError, match=said):
            label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    assert oracle.asked == []


def test_no_more_rows_are_in_memory_than_are_judged_at_once(
    oracle: Keeps, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counted(path: Path) -> Iterator[Any]:
        nonlocal read
        for number, text in enumerate(TEXTS):
            read += 1
            yield f"row {number}", {"output": text}

    ahead: list[int] = []
    monkeypatch.setattr(label, "read_rows", counted)
    monkeypatch.setattr(
        label, "judge", lambda *asked: ahead.append(read - len(TEXTS) - len(oracle.asked)) or judge(*asked)
    )
    label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    assert max(ahead) <= 64


def test_a_second_process_is_refused(oracle: Keeps, samples: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".labels.jsonl.lock"), pytest.raises(RunFolderError, match="another process"):
        label_file(samples, ORACLE, tmp_path / "labels.jsonl")


def test_an_oracle_that_breaks_its_contract_leaves_no_labels(samples: Path, tmp_path: Path, oracle: Keeps) -> None:
    oracle._said = lambda output: 7.0  # type: ignore[method-assign]
    with pytest.raises(OracleError, match="must return numbers"):
        label_file(samples, ORACLE, tmp_path / "labels.jsonl")
    assert not (tmp_path / "labels.jsonl").exists()


def test_chunks_grow_until_they_take_a_while() -> None:
    assert label._next_size(64, 0.001) == 256
    assert label._next_size(4096, 0.1) == label.MOST
    assert label._next_size(1024, 2 * label.SECONDS_AT_ONCE) == 512
    assert label._next_size(64, 600.0) == label.FEWEST
