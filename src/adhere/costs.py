"""What a run has cost: outputs drawn, oracle calls, tokens trained on, seconds. Counted where it is spent, never estimated.

`costs.jsonl` in the run folder has a line for every piece of work, under its name ("sft step 12", "samples 0 batch 3").
Work that a stop undid is done again under the same name and counts once: a run that was stopped and resumed has cost
what it would have cost undisturbed. `costs.json` has the totals. Checking a recipe and evaluating a model are no part of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from adhere import ranks
from adhere.errors import RunFolderError
from adhere.files import cannot_write, cut_torn_line, write_json_atomic

COSTS = "costs.json"
JOURNAL = "costs.jsonl"


@dataclass(frozen=True, slots=True)
class Costs:
    """The budget that a run has used."""

    generated_outputs: int = 0  # drawn from the model while it was trained or guidance was fitted
    generated_tokens: int = 0  # in them, the tokens that end them included
    oracle_calls: int = 0  # outputs and corpus rows judged, each once for every constraint
    prefix_scores: int = 0  # beginnings of outputs judged, beside these
    no_verdict: int = 0  # of the oracle calls, those without an answer
    calls_made: int = 0  # requests to services, repeated ones included, and texts read by large models that judge
    calls_saved: int = 0  # verdicts that the cache had already
    money: float = 0.0  # for the requests, at the prices that the recipe states
    optimizer_steps: int = 0
    trained_tokens: int = 0  # that went through the model with gradient
    train_seconds: float = 0.0  # wall clock, from the first step to the last: sampling, judging and fitting included


class Ledger:
    """Writes down the costs of one run folder; where several processes train together, the first of them does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if ranks.is_first():
            cut_torn_line(folder / JOURNAL)

    def record(self, work: str, **amounts: float) -> None:
        """Note what a piece of work has cost: before its result is on disk, so that it is never kept without its price.

        Args:
            work: its name, the same when it is done again.
            amounts: fields of `Costs`.

        Raises:
            ValueError: an amount is no field of `Costs`.
            RunFolderError: the journal cannot be written.
        """
        if unknown := amounts.keys() - _FIELDS:
            raise ValueError(f"{min(unknown)!r} is no cost; costs are {', '.join(sorted(_FIELDS))}")
        if not ranks.is_first():
            return
        path = self._folder / JOURNAL
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:  # not forced to the disk: a line for every step would slow down the steps
                stream.write(json.dumps({"work": work, **amounts}, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise cannot_write(path, error) from error

    @contextmanager
    def timed(self, work: str) -> Iterator[None]:
        """Note the seconds of a block that is no training step.

        What a stopped run has left on disk makes the block shorter when it comes again: the longest time counts.
        """
        start = time.monotonic()
        yield
        before = self._by_work().get(work, {}).get("train_seconds", 0.0)
        self.record(work, train_seconds=max(before, round(time.monotonic() - start, 4)))

    def total(self) -> Costs:
        """The sum over all work, each piece as it was noted last."""
        sums: dict[str, Any] = dict.fromkeys(_FIELDS, 0)
        for amounts in self._by_work().values():
            for name in amounts.keys() & _FIELDS:
                sums[name] += amounts[name]
        return Costs(**{**sums, "train_seconds": round(float(sums["train_seconds"]), 3)})

    def write(self) -> Costs:
        """Write `costs.json`, whole; returns what it says. Raises RunFolderError when it cannot be written."""
        total = self.total()
        if not ranks.is_first():
            return total
        write_json_atomic(self._folder / COSTS, asdict(total))
        return total

    def _by_work(self) -> dict[str, dict[str, Any]]:
        try:
            lines = (self._folder / JOURNAL).read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise RunFolderError(f"cannot read {self._folder / JOURNAL}: {error.strerror or error}") from error
        found: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                told = json.loads(line)
                found[told.pop("work")] = told
            except (ValueError, KeyError, AttributeError, TypeError):  # what a power failure left of a line
                continue
        return found


def read_costs(folder: Path) -> Costs:
    """The costs of a run, as `costs.json` has them.

    Raises:
        RunFolderError: it is missing or damaged.
    """
    path = folder / COSTS
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Costs(**{name: told[name] for name in _FIELDS & told.keys()})
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{folder} does not say what it cost ({COSTS} is missing): it is no run, has not come to its first "
            "checkpoint, or was made by an older version"
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error


_FIELDS = {field.name for field in fields(Costs)}
