"""Refreshes on a Ray cluster: actors sample and judge on any number of nodes, one fits; what they make is written here.

The model goes to the cluster once, and before every refresh a snapshot of what training has changed. A node that disappears
takes nothing with it: batches that are on disk stay, the others are given to other actors.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
from ray.exceptions import RayError

from adhere import ranks
from adhere.errors import RecipeError, RefreshError
from adhere.guidance.executors import Finished, Pending, may_be_mended
from adhere.guidance.guidance import Guidance
from adhere.guidance.labelling import Report
from adhere.guidance.ray_config import RayConfig
from adhere.guidance.ray_crew import Crew
from adhere.guidance.ray_parts import Drawing, Fitting, Judging, Shipment
from adhere.guidance.ray_refresh import Crews, RayRefresher
from adhere.guidance.refresh import Refresher, Request
from adhere.guidance.snapshots import Snapshots
from adhere.sampling.sampler import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adhere.models.policy import ModelConfig

_GRACE = 30.0  # seconds in which a refresh that was told to stop has to


class RayExecutor:
    """Makes guidance on a Ray cluster.

    Args:
        refresher: makes the guidance; it is built again over there, and writes and reads here.
        loaded_by: what loads the model again over there, where that is known (`Policy.loaded_by`).
        config: which cluster, and how much of it.
        timeout: seconds for one batch, or for a fit, after which an actor counts as hung.
    """

    def __init__(self, refresher: Refresher, loaded_by: ModelConfig | None, config: RayConfig, timeout: float) -> None:
        self.refresher, self._loaded_by, self._config, self._timeout = refresher, loaded_by, config, timeout
        self._crews: Crews | None = None
        self._connected = False
        self._under_way: _Refresh | None = None

    def submit(self, request: Request, policy: PreTrainedModel) -> Pending:
        """As `Executor.submit`: a snapshot goes to disk, and from there to the actors.

        Raises:
            RecipeError: there is no such cluster, or an oracle cannot be sent.
            ModelError, RunFolderError: from the model and from the disk.
        """
        found, snapshots = self.refresher.on_disk(request), Snapshots(self.refresher.folder)
        if found is not None:
            snapshots.remove(request.iteration)
            return Finished(found)
        file = snapshots.take(request, policy)
        if self._crews is None:
            self._crews = self._hire()
        weights = ray.put(np.fromfile(file, np.uint8))
        self._crews.begin(f"iteration {request.iteration}, step {request.policy_step}", weights)
        own = {f.name: getattr(self.refresher, f.name) for f in fields(Refresher)}
        told: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        making = RayRefresher(
            **{**own, "report": lambda event, numbers: told.put((event, {"time": time.time(), **numbers}))},
            crews=self._crews,
            context=context_length(policy),
            made_by=self.refresher.header(request, 0),
        )
        # As it was asked for at its own step: what another attempt, or a resumed run, takes up is the snapshot.
        asked = Request(request.iteration, request.policy_step, request.policy_step, request.previous)
        self._under_way = _Refresh(lambda: making.run(asked, cast("PreTrainedModel", None)), making.stop, told, self)
        self._under_way.iteration = request.iteration
        return self._under_way

    def holds(self, iteration: int) -> bool:
        return Guidance.exists(self.refresher.guidance_folder(iteration))

    def close(self) -> None:
        """Stop what is under way, let go of the actors, and of Ray where it was joined here."""
        if self._under_way is not None:
            self._under_way.end()
            self._under_way = None
        if self._crews is not None:
            self._crews.dismiss()
            self._crews = None
        if self._connected:
            ray.shutdown()
            self._connected = False

    def _hire(self) -> Crews:
        self._connect()
        config = self._config
        quantized = self._loaded_by is not None and self._loaded_by.quantization is not None
        shipment = Shipment.of(self.refresher, self._loaded_by if config.load_there or quantized else None)
        sent, tokenizer, constraints = (ray.put(part) for part in (shipment, shipment.tokenizer, shipment.constraints))
        drawing, judging, fitting = (_actor(part) for part in (Drawing, Judging, Fitting))
        samples, judges, fits = (
            {"num_cpus": config.sampler_cpus, "num_gpus": config.sampler_gpus},
            {"num_cpus": config.judge_cpus, "num_gpus": config.judge_gpus},
            {"num_cpus": config.fitter_cpus, "num_gpus": config.fitter_gpus},
        )
        return Crews(
            self._crew("samplers", config.samplers, samples,
                       lambda: drawing.options(**samples).remote(sent, _device(config.sampler_gpus))),
            self._crew("judges", config.judges, judges,
                       lambda: judging.options(**judges).remote(tokenizer, constraints)),
            self._crew("fitters", 1, fits, lambda: fitting.options(**fits).remote(sent, _device(config.fitter_gpus))),
        )  # fmt: skip

    def _crew(self, kind: str, size: int, needs: dict[str, float], hire: Callable[[], Any]) -> Crew:
        described = f"{needs['num_cpus']:g} CPU, {needs['num_gpus']:g} GPU"
        return Crew(kind, size, hire, described, self._config.patience, self._timeout, self._config.max_lost)

    def _connect(self) -> None:
        """Join the cluster, or start one here with room for every actor. Raises RecipeError when it cannot be reached."""
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        config = self._config
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        address = config.address or os.environ.get("RAY_ADDRESS")
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                needed = config.samplers * config.sampler_cpus + config.judges * config.judge_cpus + config.fitter_cpus
                cpus = max(os.cpu_count() or 1, int(-(-needed // 1)))
                # By Ray's own 15 they would stand behind everything else that this machine does, the training first of all.
                os.environ.setdefault("RAY_worker_niceness", "0")
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RecipeError(
                f"guidance.ray: the cluster at {address or 'this machine'} cannot be joined ({reason.strip()[:300]}): start it "
                "(ray start --head), correct guidance.ray.address, or use guidance.executor: worker"
            ) from error
        self._connected = True


class _Refresh:
    """A refresh under way in a thread of its own, that waits for the cluster and writes what comes."""

    def __init__(
        self,
        make: Callable[[], Guidance],
        stop: threading.Event,
        told: queue.SimpleQueue[tuple[str, dict[str, Any]]],
        executor: RayExecutor,
    ) -> None:
        self.seconds, self.iteration = 0.0, 0
        self._make, self._stop, self._told, self._executor = make, stop, told, executor
        self._outcome: Guidance | BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="adhere-ray", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        self._pass_on({})
        return not self._thread.is_alive()

    def result(self) -> Guidance:
        while self._thread.is_alive():
            self._thread.join(0.2)
            self._pass_on({"meanwhile": True})
        self._pass_on({})
        if isinstance(self._outcome, Guidance):
            Snapshots(self._executor.refresher.folder).remove(self.iteration)
            return self._outcome
        assert self._outcome is not None
        if isinstance(self._outcome, RefreshError) or not may_be_mended(self._outcome):
            raise self._outcome
        raise RefreshError(f"{type(self._outcome).__name__}: {self._outcome}") from self._outcome

    def end(self) -> None:
        """Stop it, and wait until it has."""
        self._stop.set()
        self._thread.join(_GRACE)
        self._pass_on({})

    def _work(self) -> None:
        start = time.monotonic()
        try:
            with ranks.by_itself():
                self._outcome = self._make()
        except BaseException as error:
            self._outcome = error
        self.seconds = time.monotonic() - start

    def _pass_on(self, more: dict[str, Any]) -> None:
        """Report from the thread that trains what the other has noted: one thread alone writes the log."""
        report: Report = self._executor.refresher.report
        while True:
            try:
                event, numbers = self._told.get_nowait()
            except queue.Empty:
                return
            report(event, numbers | more)


def _actor(part: type) -> Any:
    """An actor class. It is not restarted by Ray, which would leave it without the policy's weights, but replaced."""
    return ray.remote(max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")(part)


def _device(gpus: float) -> str:
    return "cuda" if gpus else "cpu"
