"""What the oracles say of the corpus: for rows left to the regulariser, and as evidence for NADO."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adhere.files import append_whole, cut_torn_line, write_text_atomic
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.guidance import generator_for
from adhere.guidance.labels import label, violations
from adhere.oracles.base import violates
from adhere.records import Verdict

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHUNK = 1024


class CorpusLabels:
    """Verdicts on tokenised corpus rows, kept in `labels/corpus.jsonl` of the run folder.

    Args:
        rows: the tokenised training rows.
        constraints: whose oracles are asked.
        tokenizer: decodes the prefixes that prefix-closed oracles are asked about.
        folder: the run folder.
    """

    def __init__(
        self, rows: Dataset, constraints: Sequence[Constraint], tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> None:
        self._rows, self._constraints, self._tokenizer = rows, constraints, tokenizer
        self._path = folder / "labels" / "corpus.jsonl"
        self._numbers: list[int] = rows["row"][:]
        texts = json.dumps([rows[column][:] for column in ("prompt", "completion")])
        self._digest = hashlib.sha256(texts.encode()).hexdigest()[:16]
        found = self._read()
        self._begun = found is not None  # the file is of this corpus and these oracles
        self._verdicts: dict[int, dict[str, Verdict]] = found or {}

    def violating(self) -> set[int]:
        """Numbers (`row`) of the rows that violate any constraint; a row without a verdict does not count as violating."""
        self._label(range(len(self._rows)))
        return {
            self._number(position)
            for position in range(len(self._rows))
            if any(v.score is not None and violates(v.score) for v in self._verdicts[self._number(position)].values())
        }

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
        for start in range(0, len(missing), CHUNK):
            part = [self._rows[position] for position in missing[start : start + CHUNK]]
            verdicts = label(
                self._constraints,
                self._tokenizer,
                [row["prompt"] for row in part],
                [row["completion"] for row in part],
                [row["input_ids"][row["prompt_length"] :] for row in part],
            )
            said = {row["row"]: found for row, found in zip(part, verdicts, strict=True)}
            self._append(said)  # at once: an oracle that fails later must not take these with it
            self._verdicts.update(said)

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
