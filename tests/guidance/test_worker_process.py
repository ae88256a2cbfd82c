"""A refresh in a process of its own: the same guidance to the bit, and what becomes of it when that process fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import ModelError, RecipeError, RefreshError
from adhere.guidance.attempts import Attempts
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.guidance.constraint import Constraint
from adhere.guidance.evidence import Evidence
from adhere.guidance.executors import InProcess
from adhere.guidance.guidance import Guidance
from adhere.guidance.portable import pack_constraints, unpack_constraints
from adhere.guidance.refresh import Refresher, Request
from adhere.guidance.snapshots import Snapshots
from adhere.guidance.worker_process import WorkerProcess
from adhere.models.frozen import FrozenModel, fast_dtype
from adhere.models.nado_config import NadoConfig
from adhere.models.policy import prepare_tokenizer
from adhere.oracles.base import Oracle
from adhere.oracles.config import RegexConfig, build_oracle
from adhere.oracles.rules import RegexOracle
from adhere.records import Prompt, Verdict
from adhere.sampling.sampler import SamplingConfig

PROMPTS = [Prompt(index, text) for index, text in enumerate(("ab", "cd", "ef g", "hi", "jkl", "m n", "op", "q"))]
PATIENCE = 900.0

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import the tests


class Troubled(Oracle):
    """No vowels; but for each word in a file it first does what the word says, once."""

    name, version = "no vowels", "1"

    def __init__(self, troubles: Path) -> None:
        self._troubles = troubles

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        words = self._troubles.read_text().split() if self._troubles.exists() else []
        if words:
            self._troubles.write_text(" ".join(words[1:]))
            if words[0] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif words[0] == "hang":
                time.sleep(600)
            elif words[0] == "memory":
                raise MemoryError("no memory for another batch")
            elif words[0] == "raise":
                raise ValueError("the service is out of order")
        return [float(not set(output) & set("aeiou")) for output in outputs]


@pytest.fixture
def make_refresher(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., Refresher]:
    def make(folder: str, **changed: Any) -> Refresher:
        parts: dict[str, Any] = {
            "tokenizer": prepare_tokenizer(tiny_tokenizer),
            "reference": FrozenModel(tiny_model, fast_dtype(tiny_model.device)),
            "constraints": [Constraint(Troubled(tmp_path / "troubles"))],
            "prompts": PROMPTS,
            "corpus": [Evidence((1, 2), (5, 6, 31), {"no vowels": Verdict(1.0)}, on_policy=False)] * 2,
            "folder": tmp_path / folder,
            "sampling": SamplingConfig(max_new_tokens=6, batch_size=4),
            "refresh": RefreshConfig(samples=12),
            "nado": NadoConfig(width=8, heads=2, rank=4),
            "fitting": FitConfig(epochs=2, batch_size=4, consistency_positions=16),
            "seed": 3,
            "report": lambda *_: None,
        }
        return Refresher(**{**parts, **changed})

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., WorkerProcess]]:
    """Makes executors whose workers are gone when the test is over."""
    made: list[WorkerProcess] = []

    def make(refresher: Refresher, **changed: Any) -> WorkerProcess:
        settings = {"loaded_by": None, "device": None, "threads": None, "timeout": PATIENCE}
        made.append(WorkerProcess(refresher, **{**settings, **changed}))
        return made[-1]

    yield make
    for executor in made:
        pid = executor.pid
        executor.close()
        assert pid is None or not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _trained(model: LlamaForCausalLM) -> None:
    """As if it had been trained for a while."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def _same(one: Guidance, other: Guidance) -> bool:
    pairs = [(one.nados[name].state_dict(), other.nados[name].state_dict()) for name in one.nados]
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


def test_a_worker_makes_the_guidance_that_this_process_would_make_to_the_bit(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, start: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> None:  # fmt: skip
    events: list[tuple[str, dict[str, Any]]] = []
    here = InProcess(make_refresher("here"))
    there = start(make_refresher("there", report=lambda *event: events.append(event)))
    previous: list[Guidance | None] = [None, None]
    for iteration, step in ((0, 0), (1, 5)):
        request = [Request(iteration, step, step, before) for before in previous]
        pending = there.submit(request[1], tiny_model)
        snapshot = Snapshots(tmp_path / "there").path(iteration)
        assert snapshot.exists()
        previous[0] = here.submit(request[0], tiny_model).result()
        if iteration:
            _trained(tiny_model)  # while the worker works
        previous[1] = pending.result()
        assert previous[0] is not None and previous[1] is not None and _same(previous[0], previous[1])
        assert pending.done() and pending.seconds > 0 and not snapshot.exists()
        for kind in ("samples", "labels"):
            file = f"{kind}/iteration-{iteration:04d}.jsonl"
            assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
        _trained(tiny_model)
    spans = [numbers for name, numbers in events if name == "spent"]
    assert [span["part"] for span in spans] == ["sampling", "labelling", "fitting"] * 2
    assert there.holds(1) and not there.holds(2)

    # An oracle that fails leaves the worker as it is; another attempt goes on from the samples that are there.
    pid = there.pid
    (tmp_path / "troubles").write_text("raise")
    with pytest.raises(RefreshError, match="'no vowels' raised ValueError: the service is out of order"):
        there.submit(Request(2, 9, 9, previous[1]), tiny_model).result()
    samples = (tmp_path / "there" / "samples" / "iteration-0002.jsonl").read_bytes()
    again = there.submit(Request(2, 9, 11, previous[1]), tiny_model).result()
    assert again.version.policy_step == 9 and there.pid == pid
    assert (tmp_path / "there" / "samples" / "iteration-0002.jsonl").read_bytes() == samples


def test_a_worker_that_is_killed_or_hangs_or_has_no_memory_is_replaced_and_nothing_is_lost(
    make_refresher: Callable[..., Refresher], tiny_model: LlamaForCausalLM, start: Callable[..., WorkerProcess],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    undisturbed = InProcess(make_refresher("undisturbed")).submit(Request(0, 0, 0, None), tiny_model).result()
    monkeypatch.setattr("adhere.guidance.attempts.FIRST_PAUSE", 0.0)
    (tmp_path / "troubles").write_text("die memory hang")
    events: list[tuple[str, dict[str, Any]]] = []

    def report(name: str, numbers: dict[str, Any]) -> None:
        events.append((name, numbers))
        failures = sum(name == "refresh failed" for name, _ in events)
        if name == "spent" and failures == 2 and executor._worker is not None:
            executor._worker._timeout = 3.0  # it is at work: from here on silence means something

    executor = start(make_refresher("disturbed", report=report))
    refresh = Attempts(executor, Request(0, 0, 0, None), tiny_model, 4, report)
    _trained(tiny_model)
    made = refresh.insist(7, tiny_model)
    assert _same(made, undisturbed)
    whys = [numbers["why"] for name, numbers in events if name == "refresh failed"]
    assert "ended by signal 9 (SIGKILL, as the system does when memory runs out)" in whys[0]
    assert "MemoryError: no memory for another batch" in whys[1]
    assert "no sign of life for 3 seconds (guidance.refresh_timeout)" in whys[2]
    assert len(whys) == 3
    drawn = [numbers["batch"] for name, numbers in events if name == "sampled"]
    assert drawn == [1, 2, 3]  # in the first attempt; the others found them on disk


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "from multiprocessing import Pipe\n"
        "ours, theirs = Pipe()\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'adhere.guidance.worker', str(theirs.fileno())],\n"
        "                          pass_fds=[theirs.fileno()], start_new_session=True)\n"
        "theirs.close()\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert _alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 60
    while _alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(worker)


def test_an_oracle_that_cannot_be_sent_is_refused_with_what_can_be_done() -> None:
    oracle = RegexOracle("z", name="locked")
    oracle.lock = __import__("threading").Lock()  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"oracle of constraint 'locked' cannot be sent .*executor: in-process"):
        pack_constraints([Constraint(oracle)])


def test_an_oracle_of_a_recipe_is_built_again_from_its_section() -> None:
    oracle = build_oracle(RegexConfig(pattern="z", name="no z"))
    oracle.lock = __import__("threading").Lock()  # type: ignore[attr-defined]
    constraint = Constraint(oracle, target=0.9, weight=3.0, name="mine", multiplier="dual")
    (again,) = unpack_constraints(pack_constraints([constraint]))
    assert again.oracle is not oracle and again.oracle.version == oracle.version
    assert again.oracle.score([""], ["buzz"]) == [0.0]
    assert (again.target, again.weight, again.name, again.multiplier) == (0.9, 3.0, "mine", "dual")


def test_functions_written_where_they_are_used_can_be_sent() -> None:
    from adhere.oracles.callable import CallableOracle

    banned = "z"
    oracle = CallableOracle(
        lambda outputs: [float(banned not in output) for output in outputs], name="here", version="1"
    )
    (again,) = unpack_constraints(pack_constraints([Constraint(oracle)]))
    assert again.oracle.score([""] * 2, ["a", "z"]) == [1.0, 0.0]


def test_a_worker_with_another_model_is_noticed_before_anything_is_drawn(
    make_refresher: Callable[..., Refresher], start: Callable[..., WorkerProcess]
) -> None:
    executor = start(make_refresher("other"))
    with pytest.raises(ModelError, match="loaded another model than the one that is trained"):
        executor.ready("another digest")
