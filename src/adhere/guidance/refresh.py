"""One refresh: sample the policy, label the outputs, fit the next guidance. Every part is on disk before the next begins."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adhere.costs import Ledger
from adhere.data.batch_log import read_state
from adhere.data.sample_store import SampleStore
from adhere.errors import GuidanceError, RunFolderError
from adhere.functional.prefixes import effective_sample_size
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence, ReadEvidence, evidence_of, read
from adhere.guidance.fit import fit
from adhere.guidance.guidance import Guidance, generator_for
from adhere.guidance.labels import label
from adhere.guidance.missing import found_later, require_verdicts
from adhere.models.frozen import FrozenModel
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.oracles.base import violates
from adhere.oracles.spending import added, spending_of
from adhere.records import GuidanceVersion, LabelledSample, Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler

Report = Callable[[str, dict[str, Any]], None]
"""Called with the name of what happened and its numbers."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which guidance is wanted: of which iteration, made from the policy as it stood at which step, asked at which step."""

    iteration: int
    policy_step: int
    step: int
    previous: Guidance | None


@dataclass(slots=True)
class Refresher:
    """Makes guidance from the policy as it stands.

    Args:
        tokenizer: the policy's.
        reference: the model before fine-tuning, held still: NADO reads its hidden states or its token embeddings.
        constraints: what is labelled and fitted.
        prompts: what is sampled from; each iteration takes its own share in a seeded order.
        corpus: labelled corpus rows, fitted beside the samples.
        folder: the run folder.
        report: told of every part, with numbers.
        part: folder below the run folder for samples and labels that no guidance is fitted on (measurements).
    """

    tokenizer: PreTrainedTokenizerBase
    reference: FrozenModel
    constraints: Sequence[Constraint]
    prompts: Sequence[Prompt]
    corpus: Sequence[Evidence]
    folder: Path
    sampling: SamplingConfig
    refresh: RefreshConfig
    nado: NadoConfig
    fitting: FitConfig
    seed: int
    report: Report
    part: str = ""
    known: dict[int, Tensor] = field(default_factory=dict)  # features of the corpus rows, read once

    def run(self, request: Request, policy: PreTrainedModel) -> Guidance:
        """Sample, label and fit, going on where a stopped run left off.

        Args:
            request: which guidance.
            policy: the policy as it stands, in the dtype it is to be sampled in.

        Raises:
            GuidanceError: nothing to tell good from bad, in the first iteration.
            OracleError, RunFolderError: from labelling and from the disk; what is there is of another run.
        """
        folder, found = self.guidance_folder(request.iteration), self.on_disk(request)
        if found is not None:
            return found
        if request.step != request.policy_step:
            raise RunFolderError(
                f"{folder} is missing, and the policy has moved on from step {request.policy_step} to {request.step}, so it "
                "cannot be made again; resume from an earlier checkpoint or start afresh in another folder"
            )
        guidance = self._fit(request, policy, self.draw(request, policy))
        guidance.save(folder)
        return guidance

    def draw(self, request: Request, policy: PreTrainedModel) -> list[LabelledSample]:
        """Sample and label alone, on disk batch by batch. Raises OracleError and RunFolderError as `run`."""
        return self._label(request, self._sample(request, policy))

    def on_disk(self, request: Request) -> Guidance | None:
        """The guidance as an earlier process left it. Raises RunFolderError when that is of another run."""
        folder = self.guidance_folder(request.iteration)
        if not Guidance.exists(folder):
            return None
        self._refuse_guidance_of_another_run(request)
        return Guidance.load(folder, self.reference.embeddings_VD)

    def guidance_folder(self, iteration: int) -> Path:
        """Where the guidance of an iteration lies."""
        return self.folder / "guidance" / f"iteration-{iteration:04d}"

    def labelled(self, iteration: int) -> list[LabelledSample]:
        """The labelled samples of an iteration, from disk."""
        return SampleStore(self.folder).labelled(iteration)

    def _share(self, iteration: int) -> list[Prompt]:
        wanted = -(-self.refresh.samples // self.refresh.samples_per_prompt)
        prompts: list[Prompt] = []
        for lap in range(-(-wanted // len(self.prompts))):
            order = torch.randperm(len(self.prompts), generator=generator_for(self.seed, iteration, lap, 11)).tolist()
            # A prompt asked again gets another index, so that its samples differ.
            prompts += [
                Prompt(self.prompts[i].index + lap * 1_000_000_007, self.prompts[i].text, self.prompts[i].domain)
                for i in order
            ]
        return prompts[:wanted]

    def _sample(self, request: Request, policy: PreTrainedModel) -> list[Sample]:
        store = SampleStore(self.folder / self.part)
        sampler = TransformersSampler(policy, self.tokenizer, self.sampling)
        batches = sampler.plan(self._share(request.iteration), self.refresh.samples_per_prompt)
        header = self._header(request, len(batches))
        writer, ledger = store.begin("samples", request.iteration, header), Ledger(self.folder)
        work = f"{self.part} samples {request.iteration}".strip()
        for batch in batches[writer.done :]:
            start = time.monotonic()
            drawn = sampler.draw(batch, seed=self.seed * 1_000_003 + request.iteration)
            tokens = sum(len(sample.output_ids) for sample in drawn)
            speed = tokens / max(time.monotonic() - start, 1e-9)
            ledger.record(f"{work} batch {batch.number}", generated_outputs=len(drawn), generated_tokens=tokens)
            writer.append(batch.number, drawn)
            self.report(
                "sampled", {"batch": batch.number + 1, "batches": len(batches), "tokens_per_second": round(speed, 1)}
            )
        writer.finish()
        return store.samples(request.iteration)

    def _label(self, request: Request, samples: Sequence[Sample]) -> list[LabelledSample]:
        store = SampleStore(self.folder / self.part)
        size = max(1, self.sampling.batch_size)
        starts = range(0, len(samples), size)
        writer = store.begin("labels", request.iteration, self._header(request, len(starts)))
        ledger = Ledger(self.folder)
        before = spending_of(*(constraint.oracle for constraint in self.constraints))
        for number in range(writer.done, len(starts)):
            part = samples[number * size : (number + 1) * size]
            spent: Counter[str] = Counter()
            verdicts = label(
                self.constraints,
                self.tokenizer,
                [s.prompt for s in part],
                [s.output for s in part],
                [s.output_ids for s in part],
                spent,
            )
            ledger.record(f"{self.part} labels {request.iteration} batch {number}".strip(), **spent)
            writer.append(number, [LabelledSample(s, v) for s, v in zip(part, verdicts, strict=True)])
        writer.finish()
        labelled = self._ask_again(request, store)
        missing = require_verdicts(
            self.constraints,
            [item.verdicts for item in labelled],
            self.refresh.max_without_verdict,
            f"outputs of iteration {request.iteration}",
        )
        numbers: dict[str, Any] = {"iteration": request.iteration, "outputs": len(labelled)}
        if any(missing.values()):
            numbers["no_verdict"] = missing
        numbers |= added(before, spending_of(*(constraint.oracle for constraint in self.constraints)))
        if not self.sampling.untruncated:
            log_importance_N = torch.tensor([item.sample.log_importance for item in labelled])
            numbers["effective_samples"] = round(float(effective_sample_size(log_importance_N)), 1)
        self.report("labelled", numbers)
        return labelled

    def _ask_again(self, request: Request, store: SampleStore) -> list[LabelledSample]:
        """The labelled samples, with what could still be found of the verdicts that were missing."""
        labelled = store.labelled(request.iteration)
        samples, verdicts = [item.sample for item in labelled], [item.verdicts for item in labelled]
        asked = [s.prompt for s in samples], [s.output for s in samples], [s.output_ids for s in samples]
        left = sum(said[c.name].score is None for said in verdicts for c in self.constraints)
        for found, spent in found_later(self.constraints, self.tokenizer, *asked, verdicts):
            Ledger(self.folder).record(f"{self.part} labels {request.iteration} again, {left} left".strip(), **spent)
            left -= len(found)
            if found:
                store.fill(request.iteration, found)
        return store.labelled(request.iteration)

    def _fit(self, request: Request, policy: PreTrainedModel, labelled: Sequence[LabelledSample]) -> Guidance:
        evidence = [*evidence_of(labelled), *self.corpus]
        generator = generator_for(self.seed, request.iteration, 23)
        ready = read(
            evidence,
            None if self.nado.shape == "own" else self.reference,
            policy,
            asked=self.fitting.consistency_positions if self.fitting.consistency_weight else 0,
            generator=generator,
            known=self.known,
        )
        self.report("read", {"sequences": len(ready)})
        nados: dict[str, Nado] = {}
        optimizers: dict[str, dict[str, Tensor]] = {}
        quality: dict[str, dict[str, float]] = {}
        idle: list[GuidanceError] = []
        for number, constraint in enumerate(self.constraints):
            name = constraint.name
            nado = build_nado(self.nado, self.reference.embeddings_VD, seed=self.seed * 101 + number)
            state = None
            if request.previous is not None:
                nado.load_state_dict(request.previous.nados[name].state_dict())
                state = request.previous.optimizers.get(name) or None
            try:
                with torch.enable_grad():
                    result = fit(nado, state, ready, name, self.fitting, generator)
            except GuidanceError as error:
                if request.previous is None or state is None:
                    if not _all_satisfy(ready, name):
                        raise
                    # One of several rules that nothing breaks: it says nothing yet (R is the same everywhere, so q* is p).
                    idle.append(error)
                    self.report("idle", {"constraint": name, "why": str(error)})
                    nado.start_at(1.0)
                    nados[name], optimizers[name], quality[name] = nado, {}, {}
                    continue
                self.report("kept", {"constraint": name, "why": str(error)})
                nados[name], optimizers[name] = request.previous.nados[name], state
                quality[name] = request.previous.version.quality[name]
                continue
            nados[name], optimizers[name], quality[name] = result.nado, result.optimizer, result.quality
            self.report("fitted", {"constraint": name, **result.quality})
        if len(idle) == len(self.constraints):
            raise idle[0]
        version = GuidanceVersion(request.iteration, request.policy_step, quality)
        for nado in nados.values():
            nado.freeze()
        return Guidance(version, nados, optimizers)

    def _refuse_guidance_of_another_run(self, request: Request) -> None:
        """Raises RunFolderError when the samples it was fitted on were made by other settings, or by a later policy."""
        path = SampleStore(self.folder).path("labels", request.iteration)
        found, wanted = read_state(path).header or {}, self._header(request, 0)
        for name in ("policy_step", "fingerprint"):
            if found.get(name, wanted[name]) != wanted[name]:
                raise RunFolderError(
                    f"{self.guidance_folder(request.iteration)} was made by another run: {path} has {name} "
                    f"{found[name]!r}, this run has {wanted[name]!r}; choose another output folder, or delete this one"
                )

    def _header(self, request: Request, batches: int) -> dict[str, Any]:
        settings = {
            "sampling": self.sampling.model_dump(),
            "refresh": self.refresh.settings(),
            "nado": self.nado.model_dump(),
            "fitting": self.fitting.model_dump(),
            "model": [len(self.tokenizer), self.reference.digest()],
            "corpus": hashlib.sha256(repr([(e.prompt_ids, e.output_ids) for e in self.corpus]).encode()).hexdigest(),
            "oracles": [[c.name, c.oracle.name, c.oracle.version] for c in self.constraints],
            "prompts": [[p.index, p.text] for p in self.prompts],
            "seed": self.seed,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return {"policy_step": request.policy_step, "fingerprint": digest, "batches": batches}


def _all_satisfy(items: Sequence[ReadEvidence], constraint: str) -> bool:
    """True when there are verdicts, and not one of them is a violation."""
    scores = [score for item in items if (score := item.evidence.verdicts[constraint].score) is not None]
    return bool(scores) and not any(map(violates, scores))
