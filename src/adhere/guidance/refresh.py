"""One refresh: sample the policy, label the outputs, fit the next guidance. Every part is on disk before the next begins."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adhere import ranks
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
from adhere.guidance.labelling import Labelling, Report
from adhere.guidance.sharing import SharedWriter, from_first
from adhere.guidance.spans import spent
from adhere.models.corpus_features import CorpusFeatures
from adhere.models.frozen import FrozenModel
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.oracles.base import Effort, violates
from adhere.records import GuidanceVersion, LabelledSample, Prompt, Sample
from adhere.sampling.backend import sampler_for
from adhere.sampling.sampler import Batch, SamplingConfig


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
        alive: called after every step of a fit, of which nothing else tells that it goes on.
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
    alive: Callable[[int, int], None] | None = None
    features: CorpusFeatures | None = None  # of the corpus rows, read once; made when first needed

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
        labelled = self.draw(request, policy)
        guidance = from_first(lambda: self._fitted_and_saved(request, policy, labelled), self.reference.embeddings_VD)
        assert guidance is not None
        return guidance

    def draw(self, request: Request, policy: PreTrainedModel) -> list[LabelledSample]:
        """Sample and label alone, on disk batch by batch. Raises OracleError and RunFolderError as `run`.

        Where several processes train, each does its share; a server that samples, and a service that judges, is asked by
        the first alone.
        """
        served = getattr(self.sampling, "backend", "transformers") != "transformers"
        paid = any(constraint.oracle.effort == Effort.SERVICE for constraint in self.constraints)
        with spent(self.report, "sampling", request.iteration):
            sample = partial(self._sample, request, policy)
            samples = ranks.on_first(sample) if served else sample()
        with spent(self.report, "labelling", request.iteration):
            judge = partial(self._label, request, samples)
            return ranks.on_first(judge) if paid else judge()

    def on_disk(self, request: Request) -> Guidance | None:
        """The guidance as an earlier process left it. Raises RunFolderError when that is of another run."""
        return from_first(lambda: self._on_disk(request), self.reference.embeddings_VD)

    def _on_disk(self, request: Request) -> Guidance | None:
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
        with sampler_for(policy, self.tokenizer, self.sampling) as sampler:
            batches = sampler.plan(self._share(request.iteration), self.refresh.samples_per_prompt)
            header, ledger = self.header(request, len(batches)), Ledger(self.folder)
            writer = SharedWriter(lambda: store.begin("samples", request.iteration, header))
            work = f"{self.part} samples {request.iteration}".strip()

            def draw(batch: Batch) -> tuple[list[Sample], float]:
                start = time.monotonic()
                drawn = sampler.draw(batch, seed=self.seed * 1_000_003 + request.iteration)
                return drawn, time.monotonic() - start

            for batch, (drawn, seconds) in ranks.in_rounds(batches[writer.done :], draw):
                tokens = sum(len(sample.output_ids) for sample in drawn)
                speed = ranks.count() * tokens / max(seconds, 1e-9)
                ledger.record(f"{work} batch {batch.number}", generated_outputs=len(drawn), generated_tokens=tokens)
                writer.append(batch.number, drawn)
                told = {"batch": batch.number + 1, "batches": len(batches), "tokens_per_second": round(speed, 1)}
                self.report("sampled", told | sampler.told())
        writer.finish()
        return ranks.on_first(lambda: store.samples(request.iteration))

    def _label(self, request: Request, samples: Sequence[Sample]) -> list[LabelledSample]:
        numbers: dict[str, Any] = {}
        if not self.sampling.untruncated:
            log_importance_N = torch.tensor([sample.log_importance for sample in samples])
            numbers["effective_samples"] = round(float(effective_sample_size(log_importance_N)), 1)
        labelling = Labelling(
            self.constraints, self.tokenizer, self.folder, self.part, self.sampling.batch_size,
            self.refresh.max_without_verdict, self.report,
        )  # fmt: skip
        return labelling.run(request.iteration, samples, partial(self.header, request), numbers)

    def _fitted_and_saved(
        self, request: Request, policy: PreTrainedModel, labelled: Sequence[LabelledSample]
    ) -> Guidance:
        with spent(self.report, "fitting", request.iteration):
            guidance = self.fitted(request, policy, labelled)
        store = SampleStore(self.folder)
        made_of = [store.path("samples", request.iteration), store.path("labels", request.iteration)]
        guidance.save(self.guidance_folder(request.iteration), made_of)
        return guidance

    def fitted(self, request: Request, policy: PreTrainedModel, labelled: Sequence[LabelledSample]) -> Guidance:
        """Guidance fitted on labelled samples; nothing is written. Raises GuidanceError as `run`."""
        evidence = [*evidence_of(labelled), *self.corpus]
        generator = generator_for(self.seed, request.iteration, 23)
        features = self.features = self.features or CorpusFeatures(self.reference, [e.tokens for e in self.corpus])
        ready = read(
            evidence,
            None if self.nado.shape == "own" else self.reference,
            policy,
            asked=self.fitting.consistency_positions if self.fitting.consistency_weight else 0,
            generator=generator,
            corpus=features,
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
                    result = fit(nado, state, ready, name, self.fitting, generator, self.alive)
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
        found, wanted = read_state(path).header or {}, self.header(request, 0)
        for name in ("policy_step", "fingerprint"):
            if found.get(name, wanted[name]) != wanted[name]:
                raise RunFolderError(
                    f"{self.guidance_folder(request.iteration)} was made by another run: {path} has {name} "
                    f"{found[name]!r}, this run has {wanted[name]!r}; choose another output folder, or delete this one"
                )

    def header(self, request: Request, batches: int) -> dict[str, Any]:
        """Of the files of samples and labels: what they are made by. The model is looked at for it."""
        settings = {
            "sampling": self.sampling.settings(),
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
