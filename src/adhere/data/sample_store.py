"""Samples and their labels on disk: `samples/iteration-0000.jsonl` and `labels/iteration-0000.jsonl` in the run folder.

Both are read with any JSON tool. They are written a whole batch at a time (`batch_log`): a run that is killed goes on
with the next batch. A line of labels names its sample by `position`, the number of the sample's line in the file of
samples, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

from adhere.data.batch_log import Json, append_batch, open_log, read_records, read_state, replace_records
from adhere.errors import RunFolderError
from adhere.records import LabelledSample, Sample, Verdict

Kind = Literal["samples", "labels"]
Header = Mapping[str, object]
Record = TypeVar("Record")


class BatchWriter(Generic[Record]):
    """Appends batches to one file; `done` are on the disk already.

    Attributes:
        batches: how many there will be.
        done: how many there are: the next batch has this number.
    """

    def __init__(self, path: Path, header: Header, batches: int, encode: Callable[[int, Record], Json]) -> None:
        state = open_log(path, header)
        self.path = path
        self.batches = batches
        self.done = state.batches
        self._records = state.records
        self._encode = encode

    def append(self, batch: int, records: Sequence[Record]) -> None:
        """Write a batch; it is on the disk when this returns, and none of it is when this raises.

        Raises:
            RunFolderError: no space left, or the file cannot be written; the batch may be given again.
            ValueError: not the next batch, one too many, without records, or with NaN in it.
        """
        if batch != self.done or batch >= self.batches:
            raise ValueError(f"{self.path}: batch {self.done} of {self.batches} is next, got {batch}")
        lines = [self._encode(self._records + offset, record) for offset, record in enumerate(records)]
        append_batch(self.path, batch, lines)
        self.done += 1
        self._records += len(lines)

    def finish(self) -> None:
        """Make sure that all batches are there.

        Raises:
            ValueError: some are missing.
        """
        if self.done < self.batches:
            raise ValueError(f"{self.path}: {self.done} of {self.batches} batches were written")


class SampleStore:
    """The samples and labels of a run, by iteration."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the run folder; made when the first file is.
        """
        self.folder = folder

    @overload
    def begin(self, kind: Literal["samples"], iteration: int, header: Header) -> BatchWriter[Sample]: ...
    @overload
    def begin(self, kind: Literal["labels"], iteration: int, header: Header) -> BatchWriter[LabelledSample]: ...
    def begin(self, kind: Kind, iteration: int, header: Header) -> BatchWriter[Any]:
        """Begin a file, or go on with it where it was left: after its last whole batch.

        Args:
            kind: what will be written. Labels are given in the order of the samples, of which only the number is kept.
            iteration: from 0.
            header: what the records were made by, as JSON values; a file that was made by something else is refused.
                `batches`, how many there are when the file is complete, is always one of them; `policy_step` (the
                optimiser step at which the policy was) and `fingerprint` (a digest of all settings the records depend
                on) should be.

        Raises:
            RunFolderError: the file was made with another header, is damaged, or cannot be written.
            ValueError: a header that doesn't say how many batches, at least one.
        """
        batches = header.get("batches")
        if not isinstance(batches, int) or batches < 1:
            raise ValueError(f"the header of a file of {kind} plans `batches`, at least one, got {batches!r}")
        encode: Callable[[int, Any], Json] = _encode_sample if kind == "samples" else _encode_labels
        wanted = {"kind": kind, "iteration": iteration, **header}
        return BatchWriter(self.path(kind, iteration), wanted, batches, encode)

    def path(self, kind: Kind, iteration: int) -> Path:
        """Where a file is, whether it exists or not."""
        return self.folder / kind / f"iteration-{iteration:04d}.jsonl"

    def complete(self, kind: Kind, iteration: int) -> bool:
        """True when the file exists and has all the batches that its header plans."""
        state = read_state(self.path(kind, iteration))
        return state.header is not None and state.batches == state.header.get("batches")

    def samples(self, iteration: int) -> list[Sample]:
        """The samples of the whole batches, in the order they were written; none when there is no file yet."""
        return [_decode_sample(record) for record in read_records(self.path("samples", iteration))]

    def fill(self, iteration: int, verdicts: Mapping[int, Mapping[str, Verdict]]) -> None:
        """Put verdicts, by position and by constraint, in the place of those that an iteration's labels lack.

        The file is replaced in one step: checkpoints that share it keep the one they have.

        Raises:
            RunFolderError: it is damaged, or cannot be written.
        """

        def filled(position: int, record: Json) -> Json:
            said = {**_decode_verdicts(record), **verdicts.get(position, {})}
            return {"position": position, **_encode_verdicts(said)}

        replace_records(self.path("labels", iteration), filled)

    def labelled(self, iteration: int) -> list[LabelledSample]:
        """All samples of an iteration with their verdicts.

        Raises:
            RunFolderError: a sample has no label yet, or a label no sample.
        """
        samples = self.samples(iteration)
        labels = list(read_records(self.path("labels", iteration)))
        if [label["position"] for label in labels] != list(range(len(samples))):
            raise RunFolderError(
                f"{self.path('labels', iteration)}: {len(labels)} labels for {len(samples)} samples: labelling "
                "didn't finish, or "
                "the files are of two runs; resume the run, or delete the labels to make them again"
            )
        return [LabelledSample(sample, _decode_verdicts(label)) for sample, label in zip(samples, labels, strict=True)]


def _encode_sample(position: int, sample: Sample) -> Json:
    return asdict(sample)


def _decode_sample(record: Mapping[str, Any]) -> Sample:
    ids = {name: tuple(record[name]) for name in ("prompt_ids", "output_ids")}
    return Sample(**{**record, **ids})


def _encode_labels(position: int, labelled: LabelledSample) -> Json:
    return {"position": position, **_encode_verdicts(labelled.verdicts)}


def _encode_verdicts(verdicts: Mapping[str, Verdict]) -> Json:
    prefixes = {name: verdict.prefix_scores for name, verdict in verdicts.items() if verdict.prefix_scores is not None}
    return {
        "scores": {name: verdict.score for name, verdict in verdicts.items()},
        "prefix_scores": prefixes,
    }


def _decode_verdicts(record: Mapping[str, Any]) -> dict[str, Verdict]:
    prefixes: Mapping[str, Sequence[float]] = record["prefix_scores"]
    return {
        name: Verdict(score, tuple(prefixes[name]) if name in prefixes else None)
        for name, score in record["scores"].items()
    }
