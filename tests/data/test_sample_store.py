from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhere.data.sample_store import SampleStore
from adhere.errors import RunFolderError
from adhere.records import LabelledSample, Sample, Verdict

HEADER = {"policy_step": 75, "fingerprint": "abc", "batches": 3}
SAMPLE = Sample(0, 0, "Wo \u2028", "ist\ndas? 日本", (5, 6), (7, 8, 1), True, -0.1 - 0.2, 1e-300, "chat")
BATCHES = [[replace(SAMPLE, prompt_index=10 * b + i) for i in range(size)] for b, size in enumerate((2, 1, 3))]
SAMPLES = [sample for batch in BATCHES for sample in batch]
VERDICTS = [
    {"toxicity": Verdict(0.1 * i, (1.0, 0.1 * i)), "format": Verdict(None)} if i % 2 else {"toxicity": Verdict(1.0)}
    for i in range(len(SAMPLES))
]
LABELLED = [LabelledSample(sample, verdicts) for sample, verdicts in zip(SAMPLES, VERDICTS, strict=True)]


def filled(folder: Path) -> SampleStore:
    """A store with three batches of samples and two of labels, written in one go."""
    store = SampleStore(folder)
    samples = store.begin("samples", 0, HEADER)
    for number, batch in enumerate(BATCHES):
        samples.append(number, batch)
    labels = store.begin("labels", 0, {**HEADER, "batches": 2})
    labels.append(0, LABELLED[:4])
    labels.append(1, LABELLED[4:])
    return store


def test_samples_and_labels_come_back_exactly(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.samples(0) == SAMPLES
    assert store.labelled(0) == LABELLED
    assert store.complete("samples", 0)
    assert store.complete("labels", 0)


@settings(max_examples=30, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.text(), st.lists(st.floats(0, 1)))
def test_every_number_and_text_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, number: float, text: str, scores: list[float]
) -> None:
    store = SampleStore(tmp_path_factory.mktemp("store"))
    sample = replace(SAMPLE, log_probability=number, output=text, prompt=text)
    labelled = LabelledSample(sample, {text: Verdict(0.5, tuple(scores))})
    store.begin("samples", 0, HEADER).append(0, [sample])
    store.begin("labels", 0, HEADER).append(0, [labelled])
    assert store.labelled(0) == [labelled]


def test_missing_verdicts_are_filled_in_and_the_rest_stays_to_the_byte(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = store.path("labels", 0)
    linked = tmp_path / "checkpoint.jsonl"
    os.link(path, linked)
    before = path.read_bytes()
    store.fill(0, {1: {"format": Verdict(0.0, (1.0, 0.0))}, 5: {"format": Verdict(1.0)}})
    assert linked.read_bytes() == before  # a checkpoint that shares the file keeps the one it has
    expected = [dict(verdicts) for verdicts in VERDICTS]
    expected[1]["format"], expected[5]["format"] = Verdict(0.0, (1.0, 0.0)), Verdict(1.0)
    assert [item.verdicts for item in store.labelled(0)] == expected
    assert store.complete("labels", 0)
    changed = [
        i for i, (a, b) in enumerate(zip(before.splitlines(), path.read_bytes().splitlines(), strict=True)) if a != b
    ]
    assert changed == [2, 6]  # after the header
    store.fill(0, {})
    assert [item.verdicts for item in store.labelled(0)] == expected


def test_files_are_json_lines_that_say_what_they_are(tmp_path: Path) -> None:
    filled(tmp_path)
    header, *lines = map(json.loads, (tmp_path / "samples/iteration-0000.jsonl").read_bytes().splitlines())
    assert header == {"kind": "samples", "iteration": 0, **HEADER}
    assert [(line["batch"], line["batch_size"]) for line in lines] == [(0, 2), (0, 2), (1, 1), (2, 3), (2, 3), (2, 3)]
    labels = [json.loads(line) for line in (tmp_path / "labels/iteration-0000.jsonl").read_bytes().splitlines()[1:]]
    assert [label["position"] for label in labels] == list(range(6))
    assert labels[1]["scores"] == {"toxicity": 0.1, "format": None}
    assert labels[1]["prefix_scores"] == {"toxicity": [1.0, 0.1]}


@pytest.mark.parametrize("killed_after", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0])
def test_sampling_goes_on_at_the_next_batch_after_a_crash(tmp_path: Path, killed_after: float) -> None:
    """At every byte: `test_batch_log`."""
    store = filled(tmp_path)
    path = store.path("samples", 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(killed_after * len(whole))])
    assert store.complete("samples", 0) == (killed_after == 1.0)
    writer = store.begin("samples", 0, HEADER)
    assert store.samples(0) == [sample for batch in BATCHES[: writer.done] for sample in batch]
    for number in range(writer.done, 3):
        writer.append(number, BATCHES[number])
    writer.finish()
    assert path.read_bytes() == whole


def test_labels_go_on_at_the_right_sample_after_a_crash(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = store.path("labels", 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(RunFolderError, match="4 labels for 6 samples"):
        store.labelled(0)
    writer = store.begin("labels", 0, {**HEADER, "batches": 2})
    assert writer.done == 1
    writer.append(1, LABELLED[4:])
    assert path.read_bytes() == whole


def test_a_disk_that_lost_the_content_of_the_last_batch_loses_that_batch_alone(tmp_path: Path) -> None:
    """After a power cut a file may have its length but zeros at its end."""
    store = filled(tmp_path)
    path = store.path("samples", 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + bytes(len(lines[5])) + lines[6])
    assert store.begin("samples", 0, HEADER).done == 2
    assert path.read_bytes() == b"".join(lines[:4])


def test_a_batch_after_rubbish_does_not_count(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = store.path("samples", 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"rubbish\n", *lines[4:]]))
    assert store.samples(0) == BATCHES[0] + BATCHES[1]
    assert store.begin("samples", 0, HEADER).done == 2
    assert path.read_bytes() == b"".join(lines[:4])


@pytest.mark.parametrize("line", [1, 2, 3, 4])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_elsewhere_is_an_error_and_nothing_is_cut_off(tmp_path: Path, line: int, damage: str) -> None:
    store = filled(tmp_path)
    path = store.path("samples", 0)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1 : line] = [b"{broken\n"] if damage == "changed" else []
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError, match=r"iteration-0000\.jsonl: (damaged at line|made with kind None)"):
        store.begin("samples", 0, HEADER)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fingerprint": "xyz"}, "made with fingerprint 'abc', this run has fingerprint 'xyz'"),
        ({"policy_step": 0}, "made with policy_step 75"),
        ({"batches": 4}, "made with batches 3"),
    ],
)
def test_a_file_of_another_run_is_refused_and_kept(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    store = filled(tmp_path)
    before = store.path("samples", 0).read_bytes()
    with pytest.raises(RunFolderError, match=message):
        store.begin("samples", 0, {**HEADER, **changed})
    assert store.path("samples", 0).read_bytes() == before


def test_a_full_disk_loses_nothing_and_the_batch_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SampleStore(tmp_path)
    writer = store.begin("samples", 0, HEADER)
    writer.append(0, BATCHES[0])
    before = writer.path.read_bytes()
    real = os.write

    def write_half(descriptor: int, content: memoryview) -> int:
        if len(content) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half)
        with pytest.raises(
            RunFolderError, match=r"no space left to write .*iteration-0000\.jsonl: free some .* resume"
        ):
            writer.append(1, BATCHES[1])
    assert writer.path.read_bytes() == before
    assert writer.done == 1
    writer.append(1, BATCHES[1])
    assert store.samples(0) == BATCHES[0] + BATCHES[1]


def test_batches_come_in_order_and_no_more_than_planned(tmp_path: Path) -> None:
    writer = SampleStore(tmp_path).begin("samples", 0, {**HEADER, "batches": 2})
    with pytest.raises(ValueError, match="batch 0 of 2 is next, got 1"):
        writer.append(1, BATCHES[1])
    with pytest.raises(ValueError, match="no records"):
        writer.append(0, [])
    writer.append(0, BATCHES[0])
    with pytest.raises(ValueError, match="1 of 2 batches were written"):
        writer.finish()
    writer.append(1, BATCHES[1])
    writer.finish()
    with pytest.raises(ValueError, match="batch 2 of 2"):
        writer.append(2, BATCHES[2])


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path, number: float) -> None:
    store = SampleStore(tmp_path)
    writer = store.begin("samples", 0, HEADER)
    with pytest.raises(ValueError, match="JSON compliant"):
        writer.append(0, [SAMPLE, replace(SAMPLE, log_probability=number)])
    assert store.samples(0) == []


@pytest.mark.parametrize("header", [{}, {"batches": 0}, {"batches": "3"}])
def test_a_header_plans_its_batches(tmp_path: Path, header: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        SampleStore(tmp_path).begin("samples", 0, header)


def test_what_was_never_begun_is_empty_and_not_complete(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "no" / "folder")
    assert store.samples(3) == []
    assert not store.complete("labels", 3)
    assert not (tmp_path / "no").exists()


def test_iterations_have_their_own_files(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.begin("samples", 12, HEADER).append(0, BATCHES[1])
    assert store.samples(12) == BATCHES[1]
    assert store.samples(0) == SAMPLES
    assert store.path("samples", 12).name == "iteration-0012.jsonl"


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from adhere.data.sample_store import SampleStore
from adhere.records import Sample
writer = SampleStore(Path(sys.argv[1])).begin("samples", 0, {"batches": 10**9})
for number in range(writer.done, 10**9):
    writer.append(number, [Sample(number, i, "p", "o" * 5000, (1,), (2,), True, -1.0) for i in range(20)])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    for _ in range(3):
        before = len(store.samples(0))
        process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)])
        deadline = time.monotonic() + 30
        while len(store.samples(0)) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        samples = store.samples(0)
        assert len(samples) > before
        assert [(s.prompt_index, s.replicate) for s in samples] == [(n // 20, n % 20) for n in range(len(samples))]
