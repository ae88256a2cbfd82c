"""The policy as it stood when a refresh began, on disk for as long as a refresh may need it.

`snapshots/iteration-0001.safetensors` in the run folder: what `FrozenModel.save` writes, so the adapter alone where there is
one. It is there before training goes on, and goes when the guidance made from it is on disk. Checkpoints keep a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adhere.errors import RunFolderError
from adhere.models.frozen import FrozenModel, fast_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adhere.guidance.refresh import Request

FOLDER = "snapshots"


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of a run.

    Args:
        folder: the run folder.
    """

    folder: Path

    def path(self, iteration: int) -> Path:
        """Where the snapshot of an iteration is, whether it exists or not."""
        return self.folder / FOLDER / f"iteration-{iteration:04d}.safetensors"

    def take(self, request: Request, policy: PreTrainedModel) -> Path:
        """Make sure that the policy a request asks for is on disk.

        Args:
            request: which policy.
            policy: as it stands now.

        Returns:
            where it is.

        Raises:
            RunFolderError: the policy has moved on and there is no snapshot, or it cannot be written.
        """
        file = self.path(request.iteration)
        if request.step == request.policy_step:
            FrozenModel(policy, fast_dtype(policy.device)).save(file)
        elif not file.exists():
            raise RunFolderError(
                f"{file} is missing, and the policy has moved on from step {request.policy_step} to {request.step}, so the "
                f"guidance of iteration {request.iteration} cannot be made again; resume from an earlier checkpoint or "
                "start afresh in another folder"
            )
        return file

    def remove(self, iteration: int) -> None:
        """The guidance is on disk: nothing needs its snapshot any more."""
        self.path(iteration).unlink(missing_ok=True)

    def clear(self) -> None:
        """Training is over: a refresh that was given up, or came too late, leaves none behind."""
        for file in (self.folder / FOLDER).glob("iteration-*.safetensors"):
            file.unlink(missing_ok=True)
