"""A suite's measurement taken apart into what each question or prompt adds to it (`parts`), from the suite's items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adhere.evaluation.parts import RATES, TOXICITY, Parts, parts_of_scores
from adhere.evaluation.suite_files import SuiteResult
from adhere.records import Measurement

Item = Mapping[str, Any]


def parts_in_suite(result: SuiteResult, measured: Measurement) -> tuple[Parts, list[object]] | None:
    """A measurement in parts, with what names each of them: two models pair where these are equal, in order.

    Returns:
        None where the parts are not kept, or the measurement is no quotient of sums over them.
    """
    items = [item for item in result.items if item.get("task") == measured.tags.get("task")]
    if measured.name in ("accuracy", "accuracy_plain") and items:
        metric = measured.tags.get("metric", "acc")
        if any(metric not in item for item in items):
            return None
        sums_G2 = np.array([(float(item[metric]), 1.0) for item in items], dtype=np.float64)
        return Parts(sums_G2, "questions"), [(item.get("part"), item.get("number")) for item in items]
    judge = measured.tags.get("judge") or measured.tags.get("constraint")
    if measured.name in (*RATES, *TOXICITY) and judge is not None and items:
        group = measured.tags.get("group")
        groups = _by_prompt([item for item in items if group is None or item.get("group") == group])
        if any(judge not in item.get("scores", {}) for of_prompt in groups for item in of_prompt):
            return None
        scores = [[item["scores"][judge] for item in of_prompt] for of_prompt in groups]
        parts = parts_of_scores(measured, scores)
        return parts, [of_prompt[0].get("prompt") for of_prompt in groups]
    return None


def _by_prompt(items: Sequence[Item]) -> list[list[Item]]:
    grouped: dict[object, list[Item]] = {}
    for item in items:
        grouped.setdefault(item.get("prompt_index"), []).append(item)
    return list(grouped.values())
