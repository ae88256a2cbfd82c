"""The result in one or two sentences, with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from adhere.records import Measurement
from adhere.report.tables import Cell, cell, columns_of, find


def headline(measurements: Sequence[Measurement]) -> list[str]:
    """A sentence for each constraint (and one for each second judge); empty when no violations were measured."""
    sentences = []
    for name in ("violation_rate", "judge_violation_rate"):
        for column in columns_of(measurements, name):
            tags = dict(column.tags)
            models = ("constrained", "sft", "before")
            ours, plain, before = (_figure(find(measurements, column, model)) for model in models)
            constraint = f"“{tags['constraint']}”" if "constraint" in tags else "the constraint"
            if name == "judge_violation_rate":
                judge = f"{tags['judge']}, a judge" if "judge" in tags else "a second judge"
                judge += f" of {constraint}" if "constraint" in tags else ""
                sentences.append(_second_judge(judge, ours, plain, before))
            else:
                sentences.append(_result(constraint, ours, plain, before))
    return [sentence for sentence in sentences if sentence]


def _result(constraint: str, ours: str, plain: str, before: str) -> str:
    if not ours:
        known = [(plain, "after plain fine-tuning"), (before, "before fine-tuning")]
        told = " and ".join(f"{figure} {when}" for figure, when in known if figure)
        return f"Outputs that violate {constraint}: {told}." if told else ""
    against = f", against {plain} after plain fine-tuning on the same corpus" if plain else ""
    earlier = f"{' and ' if plain else ', against '}{before} before fine-tuning" if before else ""
    return f"Fine-tuned under {constraint}, the model violates it in {ours} of its outputs{against}{earlier}."


def _second_judge(judge: str, ours: str, plain: str, before: str) -> str:
    named = [(ours, "constrained"), (plain, "plain"), (before, "before")]
    told = ", ".join(f"{label} {figure}" for figure, label in named if figure)
    return f"By {judge} that training never saw: {told}." if told else ""


def _figure(measured: Measurement | None) -> str:
    if measured is None:
        return ""
    shown: Cell = cell(measured, "percent")
    return f"{shown.text} ({shown.interval})" if shown.interval else shown.text
