"""What a run says of itself while it goes: numbers for the Trainer's log, and events on disk."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adhere import ranks
from adhere.data.sample_store import SampleStore
from adhere.files import append_line
from adhere.functional.prefixes import effective_sample_size
from adhere.records import LabelledSample
from adhere.training.satisfaction import measure

if TYPE_CHECKING:
    from adhere.guidance.guidance import Guidance
    from adhere.training.loss import LossSums
    from adhere.training.trainer import ConstrainedTrainer


class ProgressLog:
    """Collects the loss's parts between two log lines; writes events to `events.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sums: dict[str, float] = {}
        self._domains: dict[str, Counter[str]] = {}
        self._step = 0
        self._tokens = 0
        self._seconds = 0.0
        self._since = time.monotonic()

    def event(self, name: str, step: int, numbers: dict[str, Any]) -> None:
        """Put one event on disk; where several processes train, the first one's alone."""
        if not ranks.is_first():
            return
        append_line(
            self._folder / "events.jsonl", json.dumps({"event": name, "step": step, "time": time.time(), **numbers})
        )

    def guidance(self, trainer: ConstrainedTrainer, guidance: Guidance) -> list[LabelledSample]:
        """Log satisfaction on the samples that guidance was fitted on and the quality of NADO; returns those samples.

        They are of the policy as it stood at `policy_step`, which the log names where that is not the step at hand. Guidance
        that a resumed run takes up in the middle of its iteration, or goes on with in the next, is in the log already.
        """
        iteration, step = guidance.version.iteration, trainer.state.global_step
        samples = ranks.on_first(lambda: SampleStore(self._folder).labelled(iteration))
        if not self._sums:
            self._step, self._seconds = step, 0.0  # a resumed run counts from where it goes on
        self._since = time.monotonic()  # a refresh is not training time
        refreshes = trainer.refreshes
        if not refreshes.begins or not refreshes.is_new:
            if refreshes.begins:
                trainer.log(refreshes.told())
            return samples
        logs: dict[str, float] = {"iteration": float(iteration), **refreshes.told()}
        if step != guidance.version.policy_step:
            logs["policy_step"] = float(guidance.version.policy_step)
        if samples:
            log_importance_N = torch.tensor([item.sample.log_importance for item in samples])
            logs["effective_samples"] = float(effective_sample_size(log_importance_N))
        for constraint in trainer.constraints:
            logs |= satisfaction_numbers(constraint.name, samples)
            quality = guidance.version.quality.get(constraint.name, {})
            logs |= {f"nado/{constraint.name}/{key}": value for key, value in quality.items()}
        trainer.log(logs)
        return samples

    def pause(self) -> None:
        """Count the time until now as training; what follows, until guidance is handed over, may be a refresh."""
        now = time.monotonic()
        self._seconds, self._since = self._seconds + now - self._since, now

    def proceed(self) -> None:
        """Count the time from now on as training."""
        self._since = time.monotonic()

    def add(self, sums: LossSums, corpus: float, held: float, tokens: int) -> None:
        """Add a micro-batch."""
        parts = {"corpus_loss": sums.corpus.detach() / corpus, "regulariser": sums.regulariser.detach() / held}
        parts |= {f"kl/{name}": value / held for name, value in sums.kl.items()}
        if sums.reference_kl is not None:
            parts["reference_kl"] = sums.reference_kl / held
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        for name, part in (sums.by_domain.by_name() if sums.by_domain else {}).items():
            self._domains.setdefault(name, Counter()).update(part)
        self._tokens += tokens

    def take(self, step: int) -> dict[str, float]:
        """The means over the steps since the last call, those of each domain over its tokens, and tokens per second."""
        self._add_up()
        steps = max(step - self._step, 1)
        taken = {name: value / steps for name, value in self._sums.items()}
        taken["kl"] = sum(value for name, value in taken.items() if name.startswith("kl/"))
        for name, sums in self._domains.items():
            taken |= {f"domain/{name}/{key}": value for key, value in _domain_means(sums).items()}
        self.pause()
        taken["tokens_per_second"] = self._tokens / max(self._seconds, 1e-9)
        self._sums, self._tokens, self._step, self._seconds = {}, 0, step, 0.0
        self._domains = {}
        return taken

    def _add_up(self) -> None:
        """Take in what the other processes have: each divides by its share of the counts, so their mean is the whole."""
        if ranks.count() == 1:
            return
        found = ranks.on_each(lambda: (self._sums, self._domains, self._tokens))
        names = dict.fromkeys(name for sums, _, _ in found for name in sums)
        self._sums = {name: sum(sums.get(name, 0.0) for sums, _, _ in found) / len(found) for name in names}
        domains: dict[str, Counter[str]] = {}
        for _, of_process, _ in found:
            for name, sums in of_process.items():
                domains.setdefault(name, Counter()).update(sums)
        self._domains, self._tokens = domains, sum(tokens for _, _, tokens in found)


def _domain_means(sums: Counter[str]) -> dict[str, float]:
    """Nats per token of one domain, by its own tokens; what it had none of is left out."""
    means = {"corpus_loss": sums["corpus"] / sums["learned"]} if sums["learned"] else {}
    if sums["held"]:
        means |= {"kl": sums["kl"] / sums["held"], "reference_kl": sums["reference"] / sums["held"]}
    return means


def satisfaction_numbers(name: str, samples: list[LabelledSample]) -> dict[str, float]:
    """Share of the judged samples that satisfy a constraint, with its 95 % interval, and the count without verdict.

    Importance weights are left out: the share is of what was sampled.
    """
    measured = measure(name, samples, weighted=False)
    return {f"no_verdict/{name}": float(len(samples))} if measured is None else measured.numbers(name)
