"""Measures satisfaction on fresh outputs while a run goes on, and moves the adaptive multipliers by it.

Measured are the samples of every refresh, and between refreshes outputs drawn for this alone (`measure_every`,
`measure_samples`). Those lie in `measurements/step-<step>-<policy>/` of the run folder (`end-...` for the verdict), batch by
batch like all samples; the last part names the weights they were drawn from, so that what another run left behind is never read
as this one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from adhere import ranks
from adhere.data.sample_store import SampleStore
from adhere.files import write_json_atomic
from adhere.guidance.config import RefreshConfig
from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel, fast_dtype
from adhere.records import LabelledSample, Sample
from adhere.training.method_config import AT_THE_END, measured_every
from adhere.training.multiplier import Multipliers
from adhere.training.satisfaction import Satisfaction, measure

if TYPE_CHECKING:
    from adhere.training.trainer import ConstrainedTrainer

STATE = "adhere_multipliers"
"""Where the state stands in `trainer_state.json` of a checkpoint: whole when the checkpoint is."""

TARGETS = "targets.json"
"""File of the run folder that says what has become of every target."""


class Adaptation:
    """The adaptive multipliers of a run, measured and moved.

    Args:
        trainer: whose policy is measured.
    """

    def __init__(self, trainer: ConstrainedTrainer) -> None:
        self._trainer = trainer
        self.multipliers = Multipliers(trainer.constraints)
        self._measured_at = 0

    def begin(self) -> None:
        """Take up what the checkpoint has that training goes on from, or begin afresh."""
        callbacks: Any = self._trainer.state.stateful_callbacks
        saved = callbacks.get(STATE, {})
        self.multipliers.load(saved.get("multipliers", {}))
        self._measured_at = saved.get("measured_at", 0)

    def before_step(self, policy: PreTrainedModel, refreshed: Guidance | None) -> None:
        """Measure the policy where it is time to, and move the multipliers, before the step is taken.

        Args:
            policy: as it stands.
            refreshed: guidance that was made anew from the policy as it stands: its samples are the measurement.
        """
        trainer, step = self._trainer, self._trainer.state.global_step
        if not self.multipliers.adaptive or self.multipliers.stopped:
            return
        if step == 0:  # the λ that a run begins with has done nothing yet: satisfaction now says nothing of it
            trainer.log(self._values())
            return
        every = trainer.config.measure_every or measured_every(trainer.state.max_steps)
        if refreshed is None and step - self._measured_at < every:
            return
        samples = self._draw(trainer.policy()) if refreshed is None else self._of_refresh(refreshed)
        logs: dict[str, float] = {}
        for name, measured in self._measured(samples).items():
            given_up = self.multipliers.update(name, measured, step)
            trainer.progress.event("multiplier", step, self._told(name, measured))
            if refreshed is None:  # what a refresh measures is in the log already
                logs |= measured.numbers(name)
            if given_up:
                sentence = f"{self.multipliers.sentence(name, measured)}, as far as it goes"
                trainer.progress.event("given up", step, {"constraint": name, "sentence": sentence})
        trainer.log(logs | self._values())
        self._measured_at = step
        callbacks: Any = trainer.state.stateful_callbacks
        callbacks[STATE] = {"multipliers": self.multipliers.state(), "measured_at": step}

    def end(self) -> None:
        """Measure what the run ended with, and say of every target whether it is reached."""
        trainer = self._trainer
        if not self.multipliers.adaptive:
            return
        told: list[dict[str, Any]] = []
        samples = self._draw(trainer.policy(), AT_THE_END)
        lengths, also = self._lengths([item.sample for item in samples])
        for name, measured in self._measured(samples).items():
            said = self._told(name, measured) | lengths | {"verdict": self.multipliers.verdict(name, measured)}
            told.append(said | {"sentence": self.multipliers.sentence(name, measured) + also})
            trainer.progress.event("target", trainer.state.global_step, told[-1])
            trainer.log(measured.numbers(name))
        if ranks.is_first():
            write_json_atomic(trainer.run_folder / TARGETS, told)

    def _lengths(self, samples: Sequence[Sample]) -> tuple[dict[str, float], str]:
        """Tokens an output now and in the first iteration, and as words: a target is easily reached by falling silent."""
        store = SampleStore(self._trainer.run_folder)
        if not samples or not ranks.on_first(store.path("samples", 0).exists):  # resumed elsewhere, without them
            return {}, ""
        now, first = mean_tokens(samples), mean_tokens(ranks.on_first(lambda: store.samples(0)))
        return {"tokens": now, "tokens_at_first": first}, f"; outputs have {now:.1f} tokens, {first:.1f} at first"

    def _measured(self, samples: Sequence[LabelledSample]) -> dict[str, Satisfaction]:
        """By constraint, over the outputs of the domains it acts in; those without any verdict are left out."""
        acts, found = self._trainer.domains.acts, {}
        for name in self.multipliers.adaptive:
            measured = measure(name, [item for item in samples if acts(item.sample.domain, name)])
            if measured is not None:
                found[name] = measured
        return found

    def _values(self) -> dict[str, float]:
        """λ and target of the adaptive constraints, for the log."""
        adaptive, values = self.multipliers.adaptive, self.multipliers.values
        logs = {f"multiplier/{name}": values[name] for name in adaptive}
        return logs | {f"target/{name}": constraint.target for name, constraint in adaptive.items()}

    def _told(self, name: str, measured: Satisfaction) -> dict[str, Any]:
        low, high = measured.interval
        return {
            "constraint": name,
            "target": self.multipliers.adaptive[name].target,
            "satisfaction": measured.share,
            "low": low,
            "high": high,
            "n": measured.n,
            "multiplier": self.multipliers.values[name],
        }

    def _of_refresh(self, guidance: Guidance) -> list[LabelledSample]:
        store = SampleStore(self._trainer.run_folder)
        return ranks.on_first(lambda: store.labelled(guidance.version.iteration))

    def _draw(self, policy: PreTrainedModel, times: int = 1) -> list[LabelledSample]:
        """Fresh outputs of the policy as it stands, from disk where a stopped run has drawn them already."""
        trainer, step = self._trainer, self._trainer.state.global_step
        adaptive = list(self.multipliers.adaptive.values())
        drawer = Refresher(
            tokenizer=trainer.tokenizer,
            reference=trainer.reference,
            constraints=adaptive,
            prompts=[p for p in trainer.prompts if any(trainer.domains.acts(p.domain, c.name) for c in adaptive)],
            corpus=(),
            folder=trainer.run_folder,
            sampling=trainer.config.sampling,
            refresh=RefreshConfig(
                samples=times * trainer.config.measure_samples,
                max_without_verdict=trainer.config.refresh.max_without_verdict,
            ),
            nado=trainer.config.nado,
            fitting=trainer.config.nado_fit,
            seed=trainer.config.seed * 7_919 + step + 1,  # the numbers drawn for guidance are others
            report=self._report,
            part=f"measurements/{'step' if times == 1 else 'end'}-{step:06d}-{_digest(policy)}",
        )
        trainer.progress.pause()
        # A random state of its own: a measurement must not change what training draws afterwards.
        devices = [policy.device] if policy.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), FrozenModel(policy, fast_dtype(policy.device)).lent() as still:
            samples = drawer.draw(Request(0, step, step, None), still)
        trainer.progress.proceed()
        return samples

    def _report(self, event: str, numbers: dict[str, Any]) -> None:
        if event == "sampled":
            self._trainer.progress.event("measuring", self._trainer.state.global_step, numbers)


def mean_tokens(samples: Sequence[Sample]) -> float:
    """Tokens an output, what ends it left out."""
    return sum(len(sample.output_ids) - sample.finished for sample in samples) / len(samples)


def _digest(model: PreTrainedModel) -> str:
    """A short name for the weights that are trained, by the sum of each."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            digest.update(f"{name} {float(weight.detach().sum(dtype=torch.float64))!r}\n".encode())
    return digest.hexdigest()[:8]
