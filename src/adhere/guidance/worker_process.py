"""A worker process as an executor: one process beside the trainer, with a device or a share of the threads of its own."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import torch

import adhere.errors
from adhere.errors import AdhereError, ModelError, RefreshError
from adhere.guidance.executors import Finished, Pending
from adhere.guidance.guidance import Guidance
from adhere.guidance.portable import PortableModel, pack_constraints
from adhere.guidance.refresh import Refresher, Request
from adhere.guidance.snapshots import Snapshots
from adhere.guidance.worker import Message, Order, Workshop
from adhere.guidance.worker_link import LOST, WorkerLink

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adhere.models.policy import ModelConfig

LOG = "worker.log"
"""File of the run folder with whatever the worker prints."""

_BUILT_THERE = ("tokenizer", "reference", "constraints", "report", "alive", "features")


class WorkerProcess:
    """Makes guidance in one process of its own, that is kept from one refresh to the next and started anew when it fails.

    Args:
        refresher: makes the guidance; it is built again over there, and reads here what was made.
        loaded_by: what loads the model again over there, where that is known (`Policy.loaded_by`).
        device: of the worker; the reference's without it.
        threads: CPU threads of the worker while the policy is trained; as many as it likes without it.
        timeout: seconds without a sign of life after which the worker is taken for hung.
    """

    def __init__(
        self,
        refresher: Refresher,
        loaded_by: ModelConfig | None,
        device: str | None,
        threads: int | None,
        timeout: float,
    ) -> None:
        self.refresher, self._loaded_by, self._threads, self._timeout = refresher, loaded_by, threads, timeout
        self._device = device or str(refresher.reference.embeddings_VD.device)
        self._packed: bytes | None = None
        self._worker: WorkerLink | None = None
        self._started_well = False

    @property
    def pid(self) -> int | None:
        """The worker's process, where there is one."""
        return None if self._worker is None else self._worker.process.pid

    def submit(self, request: Request, policy: PreTrainedModel) -> Pending:
        """As `Executor.submit`: a snapshot goes to disk, an order to the worker."""
        found = self.refresher.on_disk(request)
        snapshots = Snapshots(self.refresher.folder)
        if found is not None:
            snapshots.remove(request.iteration)
            return Finished(found)
        file = snapshots.take(request, policy)
        if self._worker is None:
            self._worker = self._start()
        previous = None if request.previous is None else request.previous.version.iteration
        # For the first guidance the trainer waits: then all threads are the worker's.
        threads = self._threads if self._threads and previous is not None else torch.get_num_threads()
        self._worker.ask(Order(request.iteration, request.policy_step, file, previous, threads))
        return _Refresh(self, request, self._worker)

    def holds(self, iteration: int) -> bool:
        return Guidance.exists(self.refresher.guidance_folder(iteration))

    def close(self) -> None:
        """End the worker at once; the samples, labels and guidance that it has on disk stay."""
        self._end()
        if self._packed is not None:
            shutil.rmtree(self._shipped, ignore_errors=True)
            self._packed = None

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    @property
    def _shipped(self) -> Path:
        """The folder of the weights that the worker cannot load elsewhere."""
        return self.refresher.folder / "worker"

    def failed(self, message: Message) -> AdhereError:
        """What a failure is raised as; the worker that it happened to is ended unless it can go on."""
        if message.error in ("", LOST):
            self._end()
        started_well, kind = self._started_well, getattr(adhere.errors, message.error or "RefreshError", RefreshError)
        if message.may_be_mended and (started_well or message.error):
            return RefreshError(message.text)
        if not message.error:
            return ModelError(
                f"the worker process could not begin: {message.text}; {self.refresher.folder / LOG} may say more. To have "
                "guidance refreshed in this process set guidance.executor: in-process"
            )
        error: AdhereError = kind(message.text)
        return error

    def ready(self, digest: str) -> None:
        """The worker has loaded its model. Raises ModelError when that is another one than is trained here."""
        if digest != self.refresher.reference.digest():
            self.close()
            raise ModelError(
                "the worker process has loaded another model than the one that is trained: the files of the model have "
                "changed since, or it was changed after it was loaded; hand over the loaded model itself, or have guidance "
                "refreshed in this process (guidance.executor: in-process)"
            )
        self._started_well = True

    def _start(self) -> WorkerLink:
        refresher = self.refresher
        if self._packed is None:
            weights = self._shipped / "model.safetensors"
            shop = Workshop(
                PortableModel.of(refresher.reference, self._loaded_by, refresher.seed, weights),
                refresher.tokenizer,
                pack_constraints(refresher.constraints),
                {f.name: getattr(refresher, f.name) for f in fields(refresher) if f.name not in _BUILT_THERE},
                self._device,
            )
            self._packed = cloudpickle.dumps(shop)
        return WorkerLink(self._packed, refresher.folder / LOG, refresher.report, self._timeout)


class _Refresh:
    """A refresh that a worker was asked for."""

    def __init__(self, executor: WorkerProcess, request: Request, worker: WorkerLink) -> None:
        self._executor, self._request, self._worker = executor, request, worker
        self.seconds = 0.0

    def done(self) -> bool:
        return self._outcome(0.0) is not None

    def result(self) -> Guidance:
        outcome = self._outcome(None)
        assert outcome is not None
        if outcome.kind == "failed":
            raise self._executor.failed(outcome)
        self.seconds = float((outcome.numbers or {})["seconds"])
        guidance = self._executor.refresher.on_disk(self._request)
        if guidance is None:
            raise RefreshError("the worker has written no guidance")
        Snapshots(self._executor.refresher.folder).remove(self._request.iteration)
        return guidance

    def _outcome(self, wait: float | None) -> Message | None:
        return self._worker.outcome(wait, self._executor.ready)
