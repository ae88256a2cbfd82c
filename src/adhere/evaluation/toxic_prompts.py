"""The suite `toxicity`: what a model writes after prompts that invite toxicity, by every constraint's oracle and judge.

RealToxicityPrompts (Gehman et al. 2020) and ToxiGen (Hartvigsen et al. 2022), the latter also by the group that a prompt is
about. How often outputs are shorter than three words stands beside it: a model that falls silent is not toxic either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from adhere.evaluation.evaluate import judged
from adhere.evaluation.intervals import rate
from adhere.evaluation.satisfaction import scores_by_prompt, violation_rate
from adhere.evaluation.subject import Progress, Subject, write
from adhere.evaluation.suite_data import Row
from adhere.evaluation.suite_files import SuiteResult
from adhere.evaluation.toxicity import toxicity
from adhere.oracles.base import Oracle
from adhere.records import LabelledSample, Measurement
from adhere.sampling.sampler import SamplingConfig

SHORT = 3
"""An output of fewer words is short."""


def toxicity_suite(
    subject: Subject,
    tasks: Mapping[str, Sequence[Row]],
    constraints: Mapping[str, Oracle],
    judges: Mapping[str, Oracle],
    sampling: SamplingConfig,
    samples_per_prompt: int,
    k: int,
    seed: int,
    told: Progress,
) -> SuiteResult:
    """Sample every task's prompts and judge the outputs.

    Args:
        tasks: rows with `prompt`, and perhaps `group`, by the task's name.
        constraints, judges: oracles by name; a measurement has the tag `constraint` or `judge`.
        k: of `emt` and `toxicity_probability`; at most samples_per_prompt.

    Returns:
        for each task and oracle `emt`, `toxicity_probability`, `toxicity_fraction`, and by group `violation_rate` (tag
        `group`); for each task, and by group, `short_rate`.

    Raises:
        OracleError: an oracle broke its contract, or gave no verdict at all. CorpusError: an output leaves no room for a
        prompt. RecipeError: k is more than samples_per_prompt.
    """
    measured: list[Measurement] = []
    items: list[Mapping[str, object]] = []
    for task, rows in tasks.items():
        samples = write(subject, [row["prompt"] for row in rows], sampling, samples_per_prompt, seed, told, task)
        oracles = {**constraints, **judges}
        stage = f"judging {task} {subject.name}"
        completions = judged(samples, oracles, lambda d, t, stage=stage: told(stage, d, t, ""))  # type: ignore[misc]
        groups = [str(row.get("group") or "") for row in rows]
        for name in oracles:
            tags = {"task": task, "constraint" if name in constraints else "judge": name}
            for of_task in toxicity(scores_by_prompt(completions, name), k, seed):
                measured.append(replace(of_task, tags={**of_task.tags, **tags}))
            for group, of_group in _by_group(completions, groups):
                found = violation_rate(scores_by_prompt(of_group, name), seed=seed)
                measured.append(replace(found, tags={**found.tags, **tags, "group": group}))
        for group, of_group in [("", completions), *_by_group(completions, groups)]:
            measured.append(_short_rate(of_group, {"task": task, **({"group": group} if group else {})}, seed))
        items += [_item(task, labelled, groups) for labelled in completions]
    return SuiteResult(subject.name, "toxicity", tuple(measured), items=tuple(items))


def is_short(output: str) -> bool:
    """Whether an output has fewer words than `SHORT`."""
    return len(output.split()) < SHORT


def _by_group(
    completions: Sequence[LabelledSample], groups: Sequence[str]
) -> Iterator[tuple[str, list[LabelledSample]]]:
    for group in sorted(set(groups) - {""}):
        yield group, [each for each in completions if groups[each.sample.prompt_index] == group]


def _short_rate(completions: Sequence[LabelledSample], tags: dict[str, str], seed: int) -> Measurement:
    by_prompt: dict[int, list[bool]] = {}
    for each in completions:
        by_prompt.setdefault(each.sample.prompt_index, []).append(is_short(each.sample.output))
    estimate, method = rate(list(by_prompt.values()), seed)
    return Measurement("short_rate", *estimate, n=len(completions), tags={**tags, "interval": method})


def _item(task: str, labelled: LabelledSample, groups: Sequence[str]) -> dict[str, object]:
    sample = labelled.sample
    return {
        "task": task,
        "prompt_index": sample.prompt_index,
        "replicate": sample.replicate,
        "group": groups[sample.prompt_index],
        "prompt": sample.prompt,
        "output": sample.output,
        "scores": {name: verdict.score for name, verdict in labelled.verdicts.items()},
    }
