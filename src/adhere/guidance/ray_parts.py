"""The parts of a refresh as they run on other nodes: drawing, judging, fitting. Ray makes actors of these classes.

Each is built once and given the policy's weights before every refresh. Nothing is written but temporary files: what they
return goes to the machine that trains, which puts it on disk.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from adhere.guidance.guidance import Guidance
from adhere.guidance.labels import label
from adhere.guidance.portable import PortableModel, pack_constraints, unpack_constraints
from adhere.guidance.refresh import Refresher, Request
from adhere.models.frozen import FrozenModel
from adhere.records import LabelledSample, Sample, Verdict
from adhere.sampling.backend import sampler_for
from adhere.sampling.sampler import Batch, SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from adhere.models.policy import ModelConfig

Bytes = NDArray[np.uint8]
"""The content of a file: Ray shares arrays between the processes of a node without copying them."""
Files = dict[str, bytes]

_NOT_SENT = ("tokenizer", "reference", "constraints", "report", "alive", "features")


@dataclass(frozen=True, slots=True)
class Shipment:
    """What the actors are built from."""

    model: PortableModel
    weights: Bytes | None  # of the model, where it cannot be loaded there
    dtype: torch.dtype  # in which it is held still here, and so there, whatever is fastest there
    tokenizer: PreTrainedTokenizerBase
    constraints: bytes
    settings: dict[str, Any]  # of the `Refresher`

    @classmethod
    def of(cls, refresher: Refresher, loaded_by: ModelConfig | None) -> Shipment:
        """Pack up what makes guidance here.

        Args:
            loaded_by: what loads the model there; its weights are sent without it.

        Raises:
            RecipeError: an oracle that cannot be sent. ModelError: a model that cannot.
        """
        with tempfile.TemporaryDirectory() as folder:
            model = PortableModel.of(refresher.reference, loaded_by, refresher.seed, Path(folder) / "model.safetensors")
            weights = None if model.weights is None else np.fromfile(model.weights, np.uint8)
        settings = {f.name: getattr(refresher, f.name) for f in fields(Refresher) if f.name not in _NOT_SENT}
        return cls(
            replace(model, weights=None),
            weights,
            refresher.reference.embeddings_VD.dtype,
            refresher.tokenizer,
            pack_constraints(refresher.constraints),
            settings,
        )

    def build(self, device: str) -> tuple[FrozenModel, FrozenModel]:
        """The model before fine-tuning, twice: the second takes up the weights of policies."""
        with tempfile.TemporaryDirectory() as folder:
            model = self.model
            if self.weights is not None:
                model = replace(model, weights=Path(folder) / "model.safetensors")
                self.weights.tofile(Path(folder) / "model.safetensors")
            built = model.build().to(torch.device(device))  # type: ignore[arg-type]
            return FrozenModel(built, self.dtype), FrozenModel(built, self.dtype)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch of outputs, how long it took, and what the sampler has to say."""

    samples: list[Sample]
    seconds: float
    told: dict[str, float]


class _Equipped:
    """Something that works with a policy: `equip` gives it the weights, under a name that later calls repeat."""

    def __init__(self, policy: FrozenModel) -> None:
        self._policy = policy
        self._version: str | None = None

    def ready(self) -> bool:
        """Answers once it is built."""
        return True

    def equip(self, version: str, snapshot: Bytes) -> None:
        """Take up the weights of a policy (`Snapshots`)."""
        self._version = None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "snapshot.safetensors"
            snapshot.tofile(file)
            self._policy.load(file)
        self._version = version

    def _require(self, version: str) -> None:
        # Work must never be done with another policy's weights, whatever became of the call that was to bring them.
        if version != self._version:
            raise RuntimeError(f"the weights of {version} are wanted, and {self._version} are here")


class Drawing(_Equipped):
    """Samples the policy."""

    def __init__(self, shipment: Shipment, device: str) -> None:
        super().__init__(shipment.build(device)[1])
        self._tokenizer = shipment.tokenizer
        self._sampling: SamplingConfig = shipment.settings["sampling"]
        self._open = ExitStack()
        self._sampler: Any = None

    def equip(self, version: str, snapshot: Bytes) -> None:
        """As it says above; an engine elsewhere is given these weights too, when it draws first."""
        self._open.close()
        self._sampler = None
        super().equip(version, snapshot)

    def draw(self, version: str, batch: Batch, seed: int) -> Drawn:
        """One batch, the same as would be drawn in the trainer's process."""
        self._require(version)
        if self._sampler is None:
            model = self._open.enter_context(self._policy.lent())
            self._sampler = self._open.enter_context(sampler_for(model, self._tokenizer, self._sampling))
        start = time.monotonic()
        samples = self._sampler.draw(batch, seed)
        return Drawn(samples, time.monotonic() - start, self._sampler.told())


class Judging:
    """Asks the oracles."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, constraints: bytes) -> None:
        self._tokenizer, self._constraints = tokenizer, unpack_constraints(constraints)

    def ready(self) -> bool:
        """Answers once the oracles are built."""
        return True

    def judge(self, samples: Sequence[Sample]) -> tuple[list[dict[str, Verdict]], Counter[str]]:
        """The verdicts on a batch, and what they cost (`guidance.labels.label`)."""
        cost: Counter[str] = Counter()
        texts = [s.prompt for s in samples], [s.output for s in samples], [s.output_ids for s in samples]
        return label(self._constraints, self._tokenizer, *texts, cost), cost


class Fitting(_Equipped):
    """Fits the auxiliary models."""

    def __init__(self, shipment: Shipment, device: str) -> None:
        reference, policy = shipment.build(device)
        super().__init__(policy)
        self._told: list[tuple[str, dict[str, Any]]] = []
        self._refresher = Refresher(
            tokenizer=shipment.tokenizer,
            reference=reference,
            constraints=unpack_constraints(shipment.constraints),
            report=lambda event, numbers: self._told.append((event, {"time": time.time(), **numbers})),
            **shipment.settings,
        )

    def fit(
        self, version: str, request: Request, previous: Files | None, labelled: Sequence[LabelledSample]
    ) -> tuple[Files, list[tuple[str, dict[str, Any]]]]:
        """Guidance as files, and what happened. Raises GuidanceError as a refresh does."""
        self._require(version)
        embeddings_VD = self._refresher.reference.embeddings_VD
        before = None if previous is None else unpacked(previous, embeddings_VD)
        self._told.clear()
        with self._policy.lent() as still:
            guidance = self._refresher.fitted(replace(request, previous=before), still, labelled)
        return packed(guidance), list(self._told)


def packed(guidance: Guidance) -> Files:
    """Guidance as the files that hold it."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "guidance"
        guidance.save(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


def unpacked(files: Files, embeddings_VD: Tensor) -> Guidance:
    """The guidance that such files hold."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "guidance"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return Guidance.load(folder, embeddings_VD)
