"""The suite `bias`: does a model refuse what is harmless, and fall silent about people?

XSTest (Röttger et al. 2024) has safe prompts that sound unsafe beside unsafe ones; a model of good sense refuses the latter
alone. Identity swaps are in `identity_swaps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adhere.errors import OracleError
from adhere.evaluation.contrast import difference_of_intervals
from adhere.evaluation.identity_swaps import identity_measurements
from adhere.evaluation.intervals import Estimate, wilson
from adhere.evaluation.referee import Referee
from adhere.evaluation.refusals import refusals_by, refuses
from adhere.evaluation.subject import Progress, Subject, write
from adhere.evaluation.suite_data import Row
from adhere.evaluation.suite_files import SuiteResult
from adhere.evaluation.toxic_prompts import SHORT, is_short
from adhere.records import Measurement
from adhere.sampling.sampler import SamplingConfig

RULE = "phrase rule"
KINDS = ("safe", "unsafe")


def bias_suite(
    subject: Subject,
    tasks: Mapping[str, Sequence[Row]],
    referees: Sequence[Referee],
    sampling: SamplingConfig,
    seed: int,
    told: Progress,
) -> SuiteResult:
    """Measure refusals, silence, and what changes with the identity in a text.

    Args:
        tasks: rows of `xstest`, of `identity`, or of both.
        referees: other models that say whether an output refuses, beside the phrase rule.

    Returns:
        for XSTest, with the tag `group` (safe or unsafe): `refusal_rate` (tag `referee`: the phrase rule or a model),
        `empty_rate`, `short_rate`; and `refusal_gap`, the rate on unsafe prompts minus that on safe ones. For identity what
        `identity_measurements` gives.

    Raises:
        CorpusError: rows that cannot be compared. OracleError: a referee cannot be used.
    """
    measured: list[Measurement] = []
    items: list[Mapping[str, Any]] = []
    if "xstest" in tasks:
        found, items = _over_refusal(subject, tasks["xstest"], referees, sampling, seed, told)
        measured += found
    if "identity" in tasks:
        stage = f"identity {subject.name}"
        measured += identity_measurements(subject, tasks["identity"], seed, lambda d, t: told(stage, d, t, ""))
    notes = dict.fromkeys(note for referee in referees for note in referee.notes)
    return SuiteResult(subject.name, "bias", tuple(measured), tuple(notes), tuple(items))


def _over_refusal(
    subject: Subject,
    rows: Sequence[Row],
    referees: Sequence[Referee],
    sampling: SamplingConfig,
    seed: int,
    told: Progress,
) -> tuple[list[Measurement], list[Mapping[str, Any]]]:
    prompts, kinds = [row["prompt"] for row in rows], [row["label"] for row in rows]
    asked = [_as_request(subject, prompt) for prompt in prompts]
    outputs = [sample.output for sample in write(subject, asked, sampling, 1, seed, told, "xstest")]
    refused: dict[str, list[bool | None]] = {RULE: [refuses(output) for output in outputs]}
    for referee in referees:
        stage = f"refusals by {referee.name}"
        refused[referee.name] = refusals_by(
            referee,
            prompts,
            outputs,
            lambda d, t, s=stage: told(s, d, t, ""),  # type: ignore[misc]
        )
        if all(answer is None for answer in refused[referee.name]):
            raise OracleError(
                f"the referee {referee.name} gave no usable answer on any of {len(outputs)} outputs, so there is no rate of "
                f"refusals by it: {'; '.join(referee.notes) or 'it answers neither Yes nor No'}"
            )
    measured: list[Measurement] = []
    for by, answers in refused.items():
        rates = {}
        for kind in KINDS:
            of_kind = [answer for answer, each in zip(answers, kinds, strict=True) if each == kind]
            rates[kind] = _share("refusal_rate", of_kind, {"referee": by, "group": kind})
        measured += [found for found in rates.values() if found is not None]
        if (safe := rates["safe"]) is not None and (unsafe := rates["unsafe"]) is not None:
            measured.append(_gap(unsafe, safe, by))
    for name, happens in (("empty_rate", lambda output: not output.split()), ("short_rate", is_short)):
        for kind in KINDS:
            events = [happens(output) for output, each in zip(outputs, kinds, strict=True) if each == kind]
            found = _share(
                name, events, {"group": kind, **({"below": f"{SHORT} words"} if name == "short_rate" else {})}
            )
            measured += [] if found is None else [found]
    items: list[Mapping[str, Any]] = [
        {"task": "xstest", "label": kind, "type": row.get("type", ""), "prompt": prompt, "output": output,
         "refuses": {by: answers[number] for by, answers in refused.items()}}
        for number, (row, kind, prompt, output) in enumerate(zip(rows, kinds, prompts, outputs, strict=True))
    ]  # fmt: skip
    return measured, items


def _as_request(subject: Subject, prompt: str) -> str:
    """The prompt as a user's turn where the model has a chat template, else as it is."""
    if not subject.tokenizer.chat_template:
        return prompt
    messages = [{"role": "user", "content": prompt}]
    return str(subject.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _share(name: str, events: Sequence[bool | None], tags: dict[str, str]) -> Measurement | None:
    """How often, of what has an answer; None where nothing has."""
    known = [event for event in events if event is not None]
    if not known:
        return None
    tags = {"task": "xstest", **tags, "interval": "wilson", "no_verdict": str(len(events) - len(known))}
    return Measurement(name, *wilson(sum(known), len(known)), n=len(known), tags=tags)


def _gap(unsafe: Measurement, safe: Measurement, by: str) -> Measurement:
    """The difference of two independent rates with the interval of Newcombe (1998), method 10: from both Wilson's."""
    ends = [Estimate(measured.value, measured.low, measured.high) for measured in (unsafe, safe)]
    estimate = difference_of_intervals(*ends)
    tags = {"task": "xstest", "referee": by, "interval": "newcombe"}
    return Measurement("refusal_gap", *estimate, n=unsafe.n + safe.n, tags=tags)
