"""Plain data that travels between the parts: no torch, no behaviour beyond what the fields say."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn: after `prompt`, write `completion`.

    The oracle judges `completion` alone. A `text` row of a corpus is cut into the words that prompt and the rest, and is
    learned whole (`learn_prompt`); in the other shapes only the completion is learned.
    """

    row: int  # where in the corpus it stands, from 0
    prompt: str
    completion: str
    domain: str = "default"
    learn_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Something to sample from. `index` seeds its samples, so it stays the same whatever the batch."""

    index: int
    text: str
    domain: str = "default"


@dataclass(frozen=True, slots=True)
class Sample:
    """One output of the policy.

    `output_ids` end with the end-of-sequence token when `finished`; `output` is their text without special tokens.
    `log_probability` is log p(output | prompt) of the policy itself, untruncated; `log_importance` is that minus the log
    probability under the distribution sampled from, 0 when sampling is untruncated at temperature 1.
    """

    prompt_index: int
    replicate: int  # 0 … samples_per_prompt - 1
    prompt: str
    output: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    finished: bool
    log_probability: float
    log_importance: float = 0.0
    domain: str = "default"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one oracle said of one output: 1 = satisfied, 0 = violated, None = no verdict.

    `prefix_scores[i]` is the score of the text of the first i output tokens (i = 0 … number of tokens) for an oracle that
    scores prefixes, else None.
    """

    score: float | None
    prefix_scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """A sample with the verdict of every constraint, by the constraint's name."""

    sample: Sample
    verdicts: dict[str, Verdict]


@dataclass(frozen=True, slots=True)
class GuidanceVersion:
    """Which auxiliary model is in force: made in `iteration` from the policy as it stood at `policy_step`.

    `quality` holds, by constraint, what was measured when it was fitted (held-out loss, ROC-AUC, calibration error, ...).
    """

    iteration: int
    policy_step: int
    quality: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with its interval: one row of a results file."""

    name: str
    value: float
    low: float | None = None  # 95 % interval, None where there is none
    high: float | None = None
    n: int = 0
    unit: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The row as the results files have it: the tags stand beside the other fields."""
        row = asdict(self)
        return {**{k: v for k, v in row.items() if k != "tags"}, **self.tags}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Everything measured of one model, with the completions it was measured on.

    `losses` holds, by the name of a perplexity, (nats, tokens) of every text it is made of: two models are compared text by
    text with them. `conditions` says in words what it was measured under (seed, sampling, corpus, versions of the judges):
    what differs there is not the models' doing.
    """

    model: str  # the name in tables: before, sft, constrained, ...
    measurements: tuple[Measurement, ...]
    completions: tuple[LabelledSample, ...] = ()
    losses: dict[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Measurement:
        for measurement in self.measurements:
            if measurement.name == name:
                return measurement
        raise KeyError(f"{name!r} was not measured; measured: {', '.join(m.name for m in self.measurements)}")
