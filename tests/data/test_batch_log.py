from __future__ import annotations

from pathlib import Path

from adhere.data.batch_log import LogState, append_batch, open_log, read_records, read_state

HEADER: dict[str, object] = {"kind": "ü"}
BATCHES = [[{"n": 1}, {"n": 2}], [{"n": 3}], [{"n": 4}, {"n": 5}, {"n": 6}]]


def test_every_byte_at_which_a_run_is_killed_loses_the_unfinished_batch_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    open_log(path, HEADER)
    ends = [path.stat().st_size]
    for number, batch in enumerate(BATCHES):
        append_batch(path, number, batch)
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        done = max(0, sum(end <= size for end in ends) - 1)
        records = [record for batch in BATCHES[:done] for record in batch]
        assert list(read_records(path)) == records
        assert path.stat().st_size == size  # reading repairs nothing
        assert open_log(path, HEADER) == LogState(HEADER, done, len(records), ends[done])
        assert path.read_bytes() == whole[: ends[done]]
        if size in ends:  # what is written next depends on the whole batches alone
            for number in range(done, len(BATCHES)):
                append_batch(path, number, BATCHES[number])
            assert path.read_bytes() == whole


def test_the_same_batches_make_the_same_bytes_whatever_was_cut_between(tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for path in (straight, resumed):
        open_log(path, HEADER)
    for number, batch in enumerate(BATCHES):
        append_batch(straight, number, batch)
        with open(resumed, "ab") as stream:
            stream.write(straight.read_bytes()[resumed.stat().st_size :][:-1])  # all but the last byte, then killed
        open_log(resumed, HEADER)
        append_batch(resumed, number, batch)
    assert resumed.read_bytes() == straight.read_bytes()


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none") == LogState(None)
    assert list(read_records(tmp_path / "none")) == []
