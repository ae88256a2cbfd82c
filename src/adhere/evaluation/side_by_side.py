"""Models of one or more runs side by side: every measurement, each against a reference, and what was not the same.

Two models are compared prompt by prompt where they were asked the same prompts in the same way. Where they were not, the
intervals are put together without pairs and a remark says what differs. What has no common measure at all is not
compared: the verdicts of different oracles, perplexities of different texts or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from adhere.evaluation.contrast import contrast
from adhere.evaluation.parts import PERPLEXITY, RATES, TOXICITY, DistinctParts, Parts, parts_of
from adhere.evaluation.suite_files import SuiteResult
from adhere.evaluation.suite_parts import parts_in_suite
from adhere.records import EvaluationResult, Measurement

MAY_DIFFER = {
    "interval", "prompts", "no_verdict", "prompts_left_out", "ngrams", "dtype", "model", "ties", "first_place", "human",
    "buckets", "empty",
}  # fmt: skip
"""Tags that say how a number was made, not what it measures."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A model in a comparison: the name it goes by there, its evaluation, its suites, and facts about its run.

    `more` are measurements that stand beside them: what training cost.
    """

    name: str
    result: EvaluationResult
    suites: tuple[SuiteResult, ...] = ()
    more: tuple[Measurement, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found. Measurements have the tag `model`, contrasts `model` and `over` (the reference).

    A contrast whose interval could not be paired has the tag `unpaired`. `remarks` are sentences about what was not the same.
    """

    reference: str
    models: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    contrasts: tuple[Measurement, ...]
    remarks: tuple[str, ...]
    facts: dict[str, dict[str, str]]


Pair = tuple[Parts, Parts] | tuple[DistinctParts, DistinctParts]


@dataclass(frozen=True, slots=True)
class _Entry:
    measured: Measurement  # its tags name the oracle as the comparison does
    as_found: Measurement  # and as the evaluation does
    suite: SuiteResult | None = None  # where it is from one


def compare_models(models: Sequence[Compared], reference: str) -> Comparison:
    """Set models side by side, and each against one of them.

    Args:
        models: two or more, with different names.
        reference: the name of one of them.
    """
    below = next(model for model in models if model.name == reference)
    labels, remarks = _oracle_labels(models)
    entries = {model.name: _entries(model, labels) for model in models}
    contrasts: list[Measurement] = []
    for model in models:
        if model.name == reference:
            continue
        asked_alike, said = _terms(model, below)
        remarks += said
        found = {_key(entry.measured): entry for entry in entries[reference]}
        for entry in entries[model.name]:
            other = found.get(_key(entry.measured))
            if other is not None:
                made, remark = _contrast(model, below, entry, other, asked_alike)
                contrasts += made
                remarks += remark
    return Comparison(
        reference=reference,
        models=tuple(model.name for model in models),
        measurements=tuple(_of(entry.measured, model) for model in models for entry in entries[model.name]),
        contrasts=tuple(contrasts),
        remarks=tuple(dict.fromkeys(remarks)),
        facts={model.name: model.facts for model in models},
    )


def _contrast(
    model: Compared, below: Compared, entry: _Entry, other: _Entry, asked_alike: bool
) -> tuple[list[Measurement], list[str]]:
    name = entry.measured.name
    parts = _pair(model, below, entry, other, asked_alike)
    if parts is None and name.endswith(PERPLEXITY) and name in model.result.losses:
        what = name.removesuffix(PERPLEXITY)
        return [], [
            f"{model.name} and {below.name} were not scored on the same tokens for {what} perplexity (other texts, or another "
            "tokenizer), so the two are not compared"
        ]
    made = [
        replace(_of(each, model), tags={**_of(each, model).tags, "over": below.name})
        for each in contrast(entry.measured, other.measured, parts)
    ]
    if not asked_alike and parts is None and parts_of(model.result, entry.as_found) is not None:
        for each in made:
            each.tags["unpaired"] = "yes"
    return made, []


def _pair(model: Compared, below: Compared, entry: _Entry, other: _Entry, asked_alike: bool) -> Pair | None:
    if entry.suite is not None and other.suite is not None:
        ours, theirs = parts_in_suite(entry.suite, entry.as_found), parts_in_suite(other.suite, other.as_found)
        return (ours[0], theirs[0]) if ours and theirs and ours[1] == theirs[1] else None
    one, two = parts_of(model.result, entry.as_found), parts_of(below.result, other.as_found)
    if isinstance(one, Parts) and isinstance(two, Parts):
        if one.groups == "texts":
            same = [*one.sums_G2[:, 1]] == [*two.sums_G2[:, 1]]
            return (one, two) if same else None
        return (one, two) if asked_alike else None
    if isinstance(one, DistinctParts) and isinstance(two, DistinctParts) and asked_alike:
        return one, two
    return None


def _terms(model: Compared, below: Compared) -> tuple[bool, list[str]]:
    """Whether two models were asked the same in the same way, and sentences on what was not the same."""
    names = f"{model.name} and {below.name}"
    ours, theirs = model.result.conditions, below.result.conditions
    remarks, alike = [], True
    asked, others = (_prompts(each.result) for each in (model, below))
    if asked != others:
        alike = False
        remarks.append(
            f"{names} were asked different prompts ({len(asked):,} and {len(others):,}, of which "
            f"{len(set(asked) & set(others)):,} are the same): their intervals are not paired, and a difference may be the "
            "prompts'. Evaluate both on the same held-out prompts to compare them as equals"
        )
    if sampling := _sampling_differences(ours.get("sampling"), theirs.get("sampling")):
        alike = False
        remarks.append(
            f"{names} were sampled differently ({sampling}): their intervals are not paired, and a difference may be the "
            "sampling's"
        )
    if _differ(ours, theirs, "corpus"):
        remarks.append(f"{names} were trained on, or held out from, different corpora")
    if _differ(ours, theirs, "seed"):
        remarks.append(
            f"{names} have different seeds ({ours['seed']} and {theirs['seed']}): prompts are still paired, but some of the "
            "difference is the seeds'"
        )
    return alike, remarks


def _differ(ours: dict[str, str], theirs: dict[str, str], key: str) -> bool:
    return key in ours and key in theirs and ours[key] != theirs[key]


def _sampling_differences(ours: str | None, theirs: str | None) -> str:
    if ours is None or theirs is None or ours == theirs:
        return ""
    one, other = json.loads(ours), json.loads(theirs)
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)} and {other.get(key)}" for key in keys)


def _prompts(result: EvaluationResult) -> list[str]:
    texts = {labelled.sample.prompt_index: labelled.sample.prompt for labelled in result.completions}
    return [texts[index] for index in sorted(texts)]


def _oracle_labels(models: Sequence[Compared]) -> tuple[dict[tuple[str, str], str], list[str]]:
    """What the comparison calls the oracle that a model calls so: one name for one version, however it is called there."""
    labels: dict[tuple[str, str], str] = {}
    by_version: dict[str, str] = {}
    remarks = []
    for model in models:
        completions = model.result.completions
        for name in completions[0].verdicts if completions else ():
            version = model.result.conditions.get(f"oracle {name}")
            if version is None:  # not noted: taken for the one of that name
                labels[model.name, name] = name
                continue
            if version not in by_version:
                taken = [label for label in by_version.values() if label == name or label.startswith(f"{name} (")]
                by_version[version] = f"{name} ({len(taken) + 1})" if taken else name
                if taken:
                    remarks.append(
                        f"{name!r} of {model.name} is another oracle than {name!r} before it: what it says stands apart as "
                        f"{by_version[version]!r} and is not compared"
                    )
            labels[model.name, name] = by_version[version]
    return labels, remarks


def _entries(model: Compared, labels: dict[tuple[str, str], str]) -> list[_Entry]:
    found: list[tuple[Measurement, SuiteResult | None]] = [
        (replace(measured, tags={**measured.tags, **_oracle_tag(model.result, measured)}), None)
        for measured in model.result.measurements
    ]
    for suite in model.suites:
        found += [(replace(m, tags={"suite": suite.suite, **m.tags}), suite) for m in suite.measurements]
    entries = []
    for as_found, of_suite in found:
        tags = {
            key: labels.get((model.name, value), value) if key in ("constraint", "judge") else value
            for key, value in as_found.tags.items()
        }
        entries.append(_Entry(replace(as_found, tags=tags), as_found, of_suite))
    return entries + [_Entry(measured, measured) for measured in model.more]


def _oracle_tag(result: EvaluationResult, measured: Measurement) -> dict[str, str]:
    """The constraint that a measurement leaves unsaid because its run has only one."""
    if measured.name not in (*RATES, *TOXICITY) or {"constraint", "judge"} & measured.tags.keys():
        return {}
    constraints = list(_constraints(result))
    return {"constraint": constraints[0]} if len(constraints) == 1 else {}


def _constraints(result: EvaluationResult) -> Iterator[str]:
    judges = {m.tags.get("judge") for m in result.measurements}
    if result.completions:
        yield from (name for name in result.completions[0].verdicts if name not in judges)


def _key(measured: Measurement) -> tuple[object, ...]:
    return measured.name, *sorted((key, value) for key, value in measured.tags.items() if key not in MAY_DIFFER)


def _of(measured: Measurement, model: Compared) -> Measurement:
    return replace(measured, tags={**measured.tags, "model": model.name})
