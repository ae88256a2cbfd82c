"""How the numbers of a report were made: who judged, on how many outputs, with which interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from adhere.records import Measurement
from adhere.report.run_files import RunFiles
from adhere.report.tables import MAIN, columns_of, model_label, models_of, other_names

INTERVALS = {
    "wilson": "Wilson score interval",
    "wilson over prompts": "Wilson score interval on the number of prompts (all outputs agree)",
    "bootstrap over prompts": "percentile bootstrap over prompts",
    "bootstrap over texts": "percentile bootstrap over texts",
    "jackknife over prompts": "delete-one-prompt jackknife",
}


@dataclass(frozen=True, slots=True)
class Judges:
    """Names of who judged: the constraints the model was trained against, and judges it was not."""

    trained_against: list[str]
    independent: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """How one measure was made, over all models that have it."""

    label: str
    n: str
    interval: str
    no_verdict: str  # outputs that were left out for want of a verdict, by model; empty when there were none


def judges(run: RunFiles) -> Judges:
    """The judges that the samples and the measurements of a run name."""
    lines = list(chain.from_iterable(run.samples.values()))
    trained = [name for line in lines for name in line.verdicts]
    trained += [m.tags["constraint"] for m in run.measurements if m.name == "violation_rate" and "constraint" in m.tags]
    other = [name for line in lines for name in line.judge]
    other += [m.tags["judge"] for m in run.measurements if m.name == "judge_violation_rate" and "judge" in m.tags]
    return Judges(list(dict.fromkeys(trained)), list(dict.fromkeys(other)))


def how_measured(measurements: Sequence[Measurement]) -> list[Measured]:
    """A line for each column of the tables that counts something."""
    told = []
    for name in [*MAIN, *other_names(measurements)]:
        for column in columns_of(measurements, name):
            mine = [m for m in measurements if m.name == name and columns_of([m], name)[0].tags == column.tags]
            mine = [m for m in mine if m.tags.get("model") in models_of(measurements)]
            counts = list(dict.fromkeys(m.n for m in mine if m.n))
            methods = list(dict.fromkeys(m.tags["interval"] for m in mine if "interval" in m.tags))
            missing = [
                f"{model_label(m.tags['model'])}: {m.tags['no_verdict']}"
                for m in mine
                if m.tags.get("no_verdict", "0") != "0"
            ]
            if counts:
                unnamed = "none" if all(m.low is None for m in mine) else "not named"
                interval = "; ".join(INTERVALS.get(method, method) for method in methods) or unnamed
                told.append(Measured(column.label, " / ".join(f"{n:,}" for n in counts), interval, ", ".join(missing)))
    return told
