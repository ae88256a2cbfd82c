"""What the oracles say of the corpus: for rows left to the regulariser, and as evidence for NADO."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adhere import ranks
from adhere.costs import Ledger
from adhere.files import append_whole, cut_torn_line, write_text_atomic
from adhere.guidance.config import RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.guidance import generator_for
from adhere.guidance.labels import label, violations
from adhere.guidance.missing import found_later, require_verdicts
from adhere.oracles.base import Effort, violates
from adhere.records import Verdict
from adhere.training.domains import domains_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHUNK = 1024
MAX_WITHOUT_VERDICT: float = RefreshConfig.model_fields["max_without_verdict"].default


class CorpusLabels:
    """Verdicts on tokenised corpus rows, kept in `labels/corpus.jsonl` of the run folder.

    Args:
        rows: the tokenised training rows.
        constraints: whose oracles are asked.
        tokenizer: decodes the prefixes that prefix-closed oracles are asked about.
        folder: the run folder.
        max_without_verdict: largest share of rows without a verdict that is put up with.

    Raises:
        OracleError, VerdictsMissingError: from every method that needs verdicts which are not on disk.
    """

    def __init__(
        self,
        rows: Dataset,
        constraints: Sequence[Constraint],
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        max_without_verdict: float = MAX_WITHOUT_VERDICT,
    ) -> None:
        self._rows, self._constraints, self._tokenizer = rows, constraints, tokenizer
        self._max_without_verdict = max_without_verdict
        self._asked_again: set[int] = set()  # numbers of rows for which no more can be done in this run
        self._folder, self._path = folder, folder / "labels" / "corpus.jsonl"
        self._numbers: list[int] = rows["row"][:]
        texts = json.dumps([rows[column][:] for column in ("prompt", "completion")])
        self._digest = hashlib.sha256(texts.encode()).hexdigest()[:16]
        found = ranks.on_first(self._read)
        self._begun = found is not None  # the file is of this corpus and these oracles
        self._verdicts: dict[int, dict[str, Verdict]] = found or {}

    def violating(self, acts: Callable[[str, str], bool] | None = None) -> set[int]:
        """Numbers (`row`) of the rows that are not known to satisfy every constraint: they violate one, or lack a verdict.

        A row without a verdict is treated as one that violates (left out, or weighed by what NADO says of it): learned like
        any other it would count as satisfying, which nobody has said.

        Args:
            acts: whether a constraint (second) counts in a domain (first); all count everywhere without it.
        """
        return {
            number
            for (number, verdicts), domain in zip(self.verdicts().items(), domains_of(self._rows), strict=True)
            if any(
                (verdict.score is None or violates(verdict.score)) and (acts is None or acts(domain, name))
                for name, verdict in verdicts.items()
            )
        }

    def verdicts(self) -> dict[int, dict[str, Verdict]]:
        """What every constraint says of every row, by the row's number (`row`)."""
        self._label(range(len(self._rows)))
        return {number: self._verdicts[number] for number in self._numbers}

    def violations(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which token makes each row violate, and its score, as far as the rows are labelled (`labels.violations`).

        Args:
            numbers: of the rows (`row`).
        """
        return violations([self._verdicts.get(number, {}) for number in numbers], self._constraints)

    def evidence(self, count: int, seed: int) -> list[Evidence]:
        """`count` rows in a seeded order, as sequences for NADO."""
        order = torch.randperm(len(self._rows), generator=generator_for(seed, 41)).tolist()[:count]
        self._label(order)
        chosen = []
        for position in order:
            row = self._rows[position]
            cut = row["prompt_length"]
            chosen.append(
                Evidence(
                    tuple(row["input_ids"][:cut]),
                    tuple(row["input_ids"][cut:]),
                    self._verdicts[row["row"]],
                    on_policy=False,
                    finished=self._tokenizer.eos_token_id in (None, row["input_ids"][-1]),
                )
            )
        return chosen

    def _label(self, positions: Sequence[int]) -> None:
        missing = [position for position in positions if self._number(position) not in self._verdicts]
        parts = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
        paid = any(constraint.oracle.effort == Effort.SERVICE for constraint in self._constraints)
        for _, (said, spent) in ranks.in_rounds(parts, self._asked, shared=not paid):
            # Its first row names a part: a row is labelled once.
            Ledger(self._folder).record(f"corpus labels from row {next(iter(said))}", **spent)
            # At once: an oracle that fails later must not take these with it.
            ranks.on_first(partial(self._append, said))
            self._verdicts.update(said)
        self._verdicts.update(ranks.on_first(lambda: self._ask_again(positions)))

    def _asked(self, positions: Sequence[int]) -> tuple[dict[int, dict[str, Verdict]], Counter[str]]:
        """Verdicts on rows, by their numbers, and what they cost."""
        part, spent = [self._rows[position] for position in positions], Counter[str]()
        verdicts = label(
            self._constraints,
            self._tokenizer,
            [row["prompt"] for row in part],
            [row["completion"] for row in part],
            [row["input_ids"][row["prompt_length"] :] for row in part],
            spent,
        )
        return {row["row"]: found for row, found in zip(part, verdicts, strict=True)}, spent

    def _ask_again(self, positions: Sequence[int]) -> dict[int, dict[str, Verdict]]:
        """Ask for verdicts that are missing, once in a run; then there must be enough of them. Returns those found."""
        filled: dict[int, dict[str, Verdict]] = {}
        numbers = [self._number(position) for position in positions]
        lacking = [
            self._rows[position]
            for position, number in zip(positions, numbers, strict=True)
            if number not in self._asked_again and any(v.score is None for v in self._verdicts[number].values())
        ]
        left = len(lacking)
        later = found_later(
            self._constraints,
            self._tokenizer,
            [row["prompt"] for row in lacking],
            [row["completion"] for row in lacking],
            [row["input_ids"][row["prompt_length"] :] for row in lacking],
            [self._verdicts[row["row"]] for row in lacking],
        )
        for found, spent in later:
            Ledger(self._folder).record(f"corpus labels again, {left} left", **spent)
            left -= len(found)
            said = {lacking[i]["row"]: {**self._verdicts[lacking[i]["row"]], **new} for i, new in found.items()}
            if said:
                self._append(said)
                self._verdicts.update(said)
                filled.update(said)
        self._asked_again.update(row["row"] for row in lacking)
        verdicts = [self._verdicts[number] for number in numbers]
        require_verdicts(self._constraints, verdicts, self._max_without_verdict, "corpus rows")
        return filled

    def _number(self, position: int) -> int:
        return self._numbers[position]

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "oracles": [[c.name, c.oracle.name, c.oracle.version] for c in self._constraints],
            "rows": self._digest,
        }

    def _read(self) -> dict[int, dict[str, Verdict]] | None:
        """The verdicts on disk; None when there are none of this corpus and these oracles."""
        if not self._path.exists():
            return None
        lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]  # without what a killed process left of a line
        if not lines or json.loads(lines[0]) != self._fingerprint():
            return None
        verdicts = {}
        for line in lines[1:]:
            said = json.loads(line)
            verdicts[said["row"]] = {
                name: Verdict(score, None if prefixes is None else tuple(prefixes))
                for name, (score, prefixes) in said["verdicts"].items()
            }
        return verdicts

    def _append(self, verdicts: dict[int, dict[str, Verdict]]) -> None:
        if not self._begun:
            write_text_atomic(self._path, json.dumps(self._fingerprint()) + "\n")
            self._begun = True
        lines = [
            json.dumps({"row": row, "verdicts": {name: [v.score, v.prefix_scores] for name, v in said.items()}}) + "\n"
            for row, said in verdicts.items()
        ]
        cut_torn_line(self._path)
        append_whole(self._path, "".join(lines).encode("utf-8"))
