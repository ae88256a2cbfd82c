"""The guidance in force: one fitted NADO for each constraint, whole on disk or not there at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adhere.digests import broken, seal
from adhere.errors import RunFolderError
from adhere.files import whole_folder, write_json_atomic
from adhere.models.nado import Nado, build_nado
from adhere.models.nado_config import NadoConfig
from adhere.records import GuidanceVersion


@dataclass(slots=True)
class Guidance:
    """One NADO for each constraint, by its name, with the state of their optimisers."""

    version: GuidanceVersion
    nados: dict[str, Nado]
    optimizers: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def reads_tokens(self) -> bool:
        """True when no NADO needs the hidden states of the frozen model."""
        return all(nado.reads_tokens for nado in self.nados.values())

    def save(self, folder: Path, made_of: Iterable[Path] = ()) -> None:
        """Write weights, optimisers and version to `folder`, whole or not at all.

        Args:
            made_of: the samples and labels it was fitted on: their digests are written down with its own.
        """
        with whole_folder(folder, folder.with_name(folder.name + ".partial")) as partial:
            weights = {
                f"{name}/{key}": value for name, nado in self.nados.items() for key, value in nado.state_dict().items()
            }
            save_file({key: value.contiguous().cpu() for key, value in weights.items()}, partial / "nado.safetensors")
            states = {f"{name}/{key}": value for name, state in self.optimizers.items() for key, value in state.items()}
            save_file(
                {key: value.contiguous().cpu() for key, value in states.items()}, partial / "optimizer.safetensors"
            )
            shapes = {name: nado.config.model_dump() for name, nado in self.nados.items()}
            write_json_atomic(partial / "guidance.json", {**dataclasses.asdict(self.version), "shapes": shapes})
            seal(partial, made_of)

    @classmethod
    def load(cls, folder: Path, embeddings_VD: Tensor) -> Guidance:
        """Read what `save` wrote; the frozen model's token embeddings are not saved with it.

        Raises:
            RunFolderError: a file of it is not what was written.
        """
        for file, wrong in (broken(folder) or {}).items():
            if file.parent == folder:
                raise RunFolderError(
                    f"{file} {wrong}: it was damaged after it was written. `adhere doctor --repair` of the run's folder moves "
                    "it aside, and --resume makes it again"
                )
        described = json.loads((folder / "guidance.json").read_text(encoding="utf-8"))
        shapes = described.pop("shapes")
        weights, states = load_file(folder / "nado.safetensors"), load_file(folder / "optimizer.safetensors")
        nados = {}
        for name, shape in shapes.items():
            nado = build_nado(NadoConfig(**shape), embeddings_VD, seed=0)
            nado.load_state_dict(_below(weights, name))
            nados[name] = nado.freeze()
        return cls(GuidanceVersion(**described), nados, {name: _below(states, name) for name in shapes})

    @staticmethod
    def exists(folder: Path) -> bool:
        """True when a whole guidance lies there."""
        return (folder / "guidance.json").exists()


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one constraint. Its name may hold a slash, the name of a tensor never does."""
    parted = [(key.rpartition("/"), value) for key, value in tensors.items()]
    return {tensor: value for (owner, _, tensor), value in parted if owner == name}


def generator_for(*seeds: int) -> torch.Generator:
    """A random stream of its own for each tuple of seeds, whatever the global one has done."""
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(mixed)
