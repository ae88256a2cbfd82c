"""A refresh of several processes: guidance that the first one has made, in all of them, and files that it alone writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from adhere import ranks
from adhere.data.sample_store import BatchWriter
from adhere.errors import GuidanceError
from adhere.guidance.guidance import Guidance
from adhere.models.nado import build_nado
from adhere.models.nado_config import NadoConfig
from adhere.records import GuidanceVersion

Record = TypeVar("Record")
_Tensors = dict[str, Tensor]
_Packed = tuple[GuidanceVersion, dict[str, tuple[NadoConfig, _Tensors]]]  # the optimisers stay where the fits are


def from_first(make: Callable[[], Guidance | None], embeddings_VD: Tensor) -> Guidance | None:
    """What `make` gives in the first process, in all of them; each puts it where its own token embeddings are.

    Raises:
        PeerError: in the others, when it raised there.
        GuidanceError: the processes do not hold the same model, so that guidance would say something else in each.
    """
    if ranks.count() == 1:
        return make()
    made: list[Guidance | None] = []

    def packed() -> _Packed | None:
        made.append(make())
        return None if made[0] is None else _packed(made[0])

    sent = ranks.on_first(packed)
    if sent is None:
        return None
    guidance = made[0] if made else _unpacked(sent, embeddings_VD)
    assert guidance is not None
    require_the_same(guidance, embeddings_VD)
    return guidance


def require_the_same(guidance: Guidance, embeddings_VD: Tensor) -> None:
    """Raises GuidanceError unless guidance, and the embeddings it reads, are the same in all processes, to the bit."""
    digests = ranks.on_each(lambda: digest(guidance, embeddings_VD))
    if other := [number for number, each in enumerate(digests) if each != digests[0]]:
        raise GuidanceError(
            f"guidance of iteration {guidance.version.iteration} is not the same in process {other[0]} as in process 0: they "
            "have loaded different models, or one of the machines is faulty. Start all processes with the same recipe and "
            "the same model files"
        )


def digest(guidance: Guidance, embeddings_VD: Tensor) -> str:
    """A name for the guidance's weights and for the first token embeddings."""
    found = hashlib.sha256(repr(guidance.version).encode())
    for name, nado in sorted(guidance.nados.items()):
        for key, value in sorted(nado.state_dict().items()):
            found.update(f"{name}/{key}".encode() + _bytes(value))
    found.update(_bytes(embeddings_VD[:64]))
    return found.hexdigest()[:16]


class SharedWriter(Generic[Record]):
    """A file of batches that the first process writes; `done` of them are on the disk already.

    Args:
        begin: begins the file, or goes on with it.
    """

    def __init__(self, begin: Callable[[], BatchWriter[Record]]) -> None:
        self._writer: BatchWriter[Record] | None = None
        self.done = ranks.on_first(lambda: self._begun(begin))

    def append(self, batch: int, records: Sequence[Record]) -> None:
        """Write a batch; in all processes it is on the disk when this returns. Raises as `BatchWriter.append`."""
        ranks.on_first(lambda: self._written(batch, records))

    def finish(self) -> None:
        """Make sure that all batches are there."""
        if self._writer is not None:
            self._writer.finish()

    def _begun(self, begin: Callable[[], BatchWriter[Record]]) -> int:
        self._writer = begin()
        return self._writer.done

    def _written(self, batch: int, records: Sequence[Record]) -> None:
        assert self._writer is not None
        self._writer.append(batch, records)


def _packed(guidance: Guidance) -> _Packed:
    return guidance.version, {name: (nado.config, _here(nado.state_dict())) for name, nado in guidance.nados.items()}


def _unpacked(packed: _Packed, embeddings_VD: Tensor) -> Guidance:
    version, weights = packed
    nados = {}
    for name, (config, state) in weights.items():
        nado = build_nado(config, embeddings_VD, seed=0)
        nado.load_state_dict(state)
        nados[name] = nado.freeze()
    return Guidance(version, nados)


def _here(tensors: _Tensors) -> _Tensors:
    return {name: value.detach().cpu() for name, value in tensors.items()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
