"""The samples of an iteration with their verdicts: batch by batch on disk, what is missing asked for again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from adhere import ranks
from adhere.costs import Ledger
from adhere.data.sample_store import SampleStore
from adhere.guidance.constraint import Constraint
from adhere.guidance.labels import label
from adhere.guidance.missing import found_later, require_verdicts
from adhere.guidance.sharing import SharedWriter
from adhere.oracles.spending import added, spending_of
from adhere.records import LabelledSample, Sample

Report = Callable[[str, dict[str, Any]], None]
"""Called with the name of what happened and its numbers."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """Asks the oracles about samples.

    Args:
        constraints: whose oracles are asked.
        tokenizer: decodes the prefixes that prefix-closed oracles are asked about.
        folder: the run folder.
        part: folder below it where samples and labels lie that no guidance is fitted on.
        size: outputs a batch.
        max_without_verdict: largest share of outputs without a verdict that is put up with.
        report: told of every batch, and at the end.
    """

    constraints: Sequence[Constraint]
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    part: str
    size: int
    max_without_verdict: float
    report: Report

    def run(
        self,
        iteration: int,
        samples: Sequence[Sample],
        header: Callable[[int], dict[str, Any]],
        numbers: dict[str, Any],
    ) -> list[LabelledSample]:
        """The samples with their verdicts; where several processes train, each asks about its share.

        Args:
            header: of the file of labels, by the number of its batches.
            numbers: for the report at the end, beside those of the labels.

        Raises:
            OracleError: an oracle broke its contract. VerdictsMissingError: too many outputs are left without a verdict.
            RunFolderError: the labels cannot be written, or are of another run.
        """
        store, starts = SampleStore(self.folder / self.part), range(0, len(samples), self.size)
        ledger, head = Ledger(self.folder), header(len(starts))
        writer = SharedWriter(lambda: store.begin("labels", iteration, head))
        oracles = [constraint.oracle for constraint in self.constraints]
        before = spending_of(*oracles)

        def judged(number: int) -> tuple[list[LabelledSample], Counter[str]]:
            part, cost = samples[number * self.size : (number + 1) * self.size], Counter[str]()
            texts = [s.prompt for s in part], [s.output for s in part], [s.output_ids for s in part]
            verdicts = label(self.constraints, self.tokenizer, *texts, cost)
            return [LabelledSample(s, v) for s, v in zip(part, verdicts, strict=True)], cost

        for number, (said, cost) in ranks.in_rounds(range(writer.done, len(starts)), judged):
            ledger.record(f"{self.part} labels {iteration} batch {number}".strip(), **cost)
            writer.append(number, said)
            self.report("judged", {"batch": number + 1, "batches": len(starts)})
        writer.finish()
        labelled, missing = ranks.on_first(lambda: self._complete(iteration, store))
        told: dict[str, Any] = {"iteration": iteration, "outputs": len(labelled)}
        if any(missing.values()):
            told["no_verdict"] = missing
        self.report("labelled", told | added(before, spending_of(*oracles)) | numbers)
        return labelled

    def _complete(self, iteration: int, store: SampleStore) -> tuple[list[LabelledSample], dict[str, int]]:
        """The labelled samples, and how many verdicts are still missing; raises where these are too many."""
        labelled = self._ask_again(iteration, store)
        verdicts, what = [item.verdicts for item in labelled], f"outputs of iteration {iteration}"
        return labelled, require_verdicts(self.constraints, verdicts, self.max_without_verdict, what)

    def _ask_again(self, iteration: int, store: SampleStore) -> list[LabelledSample]:
        """The labelled samples, with what could still be found of the verdicts that were missing."""
        labelled = store.labelled(iteration)
        samples, verdicts = [item.sample for item in labelled], [item.verdicts for item in labelled]
        asked = [s.prompt for s in samples], [s.output for s in samples], [s.output_ids for s in samples]
        left = sum(said[c.name].score is None for said in verdicts for c in self.constraints)
        for found, cost in found_later(self.constraints, self.tokenizer, *asked, verdicts):
            Ledger(self.folder).record(f"{self.part} labels {iteration} again, {left} left".strip(), **cost)
            left -= len(found)
            if found:
                store.fill(iteration, found)
        return store.labelled(iteration)
