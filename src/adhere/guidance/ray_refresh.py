"""A refresh whose parts run on the nodes of a Ray cluster, while samples, labels and guidance are written here.

Batches come back in any order and are written in theirs, so that the files are those of a refresh in one process, and a
refresh that is stopped goes on as one of those does. Outputs are judged while others are still drawn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adhere.costs import Ledger
from adhere.data.sample_store import BatchWriter, SampleStore
from adhere.errors import RefreshError
from adhere.guidance.guidance import Guidance
from adhere.guidance.ray_crew import Crew, Task, finished
from adhere.guidance.ray_parts import Drawn, packed, unpacked
from adhere.guidance.refresh import Refresher, Request
from adhere.guidance.spans import SPENT, span
from adhere.records import LabelledSample, Sample
from adhere.sampling.sampler import plan_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WAIT = 0.5
"""Seconds for which the cluster is asked at a time; after that, who hangs or has been told to stop is looked at."""

ROOM = 60.0
"""Seconds without a fitter after which it is given the room of those who have drawn and judged."""


@dataclass(frozen=True, slots=True)
class Crews:
    """Who does the work."""

    samplers: Crew
    judges: Crew
    fitter: Crew

    def begin(self, version: str, weights: Any) -> None:
        """Begin a refresh with these weights of the policy."""
        self.samplers.begin(version, weights)
        self.judges.begin(version, None)
        self.fitter.begin(version, weights)

    def dismiss(self) -> None:
        """Let go of everybody."""
        for crew in (self.samplers, self.judges, self.fitter):
            crew.dismiss()


@dataclass(slots=True)
class RayRefresher(Refresher):
    """Makes guidance with actors. Nothing of the model is touched here: it may be training.

    Args:
        crews: the actors; they have the policy's weights already.
        context: the longest sequence that the model takes.
        made_by: the header of the files of samples and labels, for the refresh at hand.
        stop: set when the refresh is to end unfinished.
    """

    crews: Crews | None = None
    context: int = 0
    made_by: dict[str, Any] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def draw(self, request: Request, policy: PreTrainedModel) -> list[LabelledSample]:
        """Sample and label alone; each batch is on disk as soon as it and those before it are there.

        Args:
            policy: not looked at.

        Raises:
            RefreshError: actors were lost too often, or there is no room for them.
            OracleError, SamplingError, RunFolderError: as in one process.
        """
        iteration, store, size = request.iteration, SampleStore(self.folder / self.part), self.sampling.batch_size
        batches = plan_batches(
            self.context, self.tokenizer, self.sampling, self._share(iteration), self.refresh.samples_per_prompt
        )
        header = self.header(request, len(batches))
        files = _Files(store.begin("samples", iteration, header), store.begin("labels", iteration, header))
        assert self.crews is not None
        samplers, judges = self.crews.samplers, self.crews.judges
        old = store.samples(iteration)
        for number in range(files.labels.done, files.samples.done):
            self._have_judged(files, number, old[number * size : (number + 1) * size])
        for batch in batches[files.samples.done :]:
            samplers.give(Task(batch.number, "draw", (batch, self.seed * 1_000_003 + iteration)))
        if not self.part:
            self.crews.fitter.hire_for(1)  # it loads meanwhile
        began, start = time.time(), time.monotonic()
        while files.labels.done < len(batches):
            self._go_on()
            for crew, number, result in finished((samplers, judges, self.crews.fitter), WAIT):
                (files.drawn if crew is samplers else files.judged)[number] = result
            while (number := files.samples.done) in files.drawn:
                self._write_samples(iteration, files, number, len(batches))
                if files.samples.done == len(batches):
                    self.report(SPENT, span("sampling", iteration, began, time.monotonic() - start))
            while (number := files.labels.done) in files.judged:
                self._write_labels(iteration, files, number, len(batches))
        self.report(SPENT, span("labelling", iteration, began, time.monotonic() - start))
        return self._label(request, store.samples(iteration))  # what is left: to ask again for missing verdicts

    def fitted(self, request: Request, policy: PreTrainedModel, labelled: Sequence[LabelledSample]) -> Guidance:
        """Guidance fitted by the actor that does so. Raises GuidanceError as in one process, RefreshError as `draw`."""
        assert self.crews is not None
        before = None if request.previous is None else packed(request.previous)
        asked = Request(request.iteration, request.policy_step, request.step, None)
        self.crews.fitter.give(Task(0, "fit", (asked, before, labelled)))
        while True:
            self._go_on()
            if self.crews.fitter.waits() > ROOM:  # nodes were lost, and those that are left are full of idle actors
                self.crews.samplers.make_room()
                self.crews.judges.make_room()
            for _, _, (files, told) in finished((self.crews.fitter,), WAIT):
                for event, numbers in told:
                    self.report(event, numbers)
                return unpacked(files, self.reference.embeddings_VD)

    def _write_samples(self, iteration: int, files: _Files, number: int, batches: int) -> None:
        drawn: Drawn = files.drawn.pop(number)
        tokens = sum(len(sample.output_ids) for sample in drawn.samples)
        Ledger(self.folder).record(
            f"{self.part} samples {iteration} batch {number}".strip(),
            generated_outputs=len(drawn.samples),
            generated_tokens=tokens,
        )
        files.samples.append(number, drawn.samples)
        told = {
            "batch": number + 1,
            "batches": batches,
            "tokens_per_second": round(tokens / max(drawn.seconds, 1e-9), 1),
        }
        self.report("sampled", told | drawn.told)
        self._have_judged(files, number, drawn.samples)

    def _write_labels(self, iteration: int, files: _Files, number: int, batches: int) -> None:
        verdicts, cost = files.judged.pop(number)
        samples = files.unjudged.pop(number)
        Ledger(self.folder).record(f"{self.part} labels {iteration} batch {number}".strip(), **cost)
        files.labels.append(number, [LabelledSample(s, v) for s, v in zip(samples, verdicts, strict=True)])
        self.report("judged", {"batch": number + 1, "batches": batches})

    def _have_judged(self, files: _Files, number: int, samples: list[Sample]) -> None:
        assert self.crews is not None
        files.unjudged[number] = samples
        self.crews.judges.give(Task(number, "judge", (samples,)))

    def header(self, request: Request, batches: int) -> dict[str, Any]:
        """As it was made where the model could be looked at."""
        return {**self.made_by, "batches": batches}

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise RefreshError("the refresh was told to stop")


@dataclass(slots=True)
class _Files:
    """The two files that are written, and what has come too early to be written."""

    samples: BatchWriter[Sample]
    labels: BatchWriter[LabelledSample]
    drawn: dict[int, Drawn] = field(default_factory=dict)
    unjudged: dict[int, list[Sample]] = field(default_factory=dict)
    judged: dict[int, Any] = field(default_factory=dict)
