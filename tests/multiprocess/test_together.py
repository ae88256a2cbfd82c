"""What several processes share beside the weights: files, λ, checkpoints, and the end when one of them fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from adhere.recipe.checkpoints import fault

Train = Callable[..., Path]
SLOW = pytest.mark.skipif("MULTIPROCESS" not in os.environ, reason="takes a minute: make test-multiprocess")


@pytest.mark.parametrize("process", [pytest.param(0, marks=SLOW), 1])
def test_an_oracle_that_raises_in_one_process_stops_both(train: Train, base: Path, process: int) -> None:
    codes = [1, 3] if process == 0 else [3, 1]  # 3: PeerError
    name = f"breaks-{process}"
    folder = train(name, 2, expected=codes, breaks=process, settings={"violating_rows": "learn"})
    told = (base / f"{name}.log-{1 - process}").read_text()
    assert f"process {process} of this run stopped: OracleError: oracle 'regex' raised RuntimeError" in told
    raised = (base / f"{name}.log-{process}").read_text()
    assert "OracleError" in raised and "the oracle broke" in raised
    assert not (folder / "guidance").exists()


@pytest.mark.parametrize("sharded", ["", pytest.param("SHARDED_STATE_DICT", marks=SLOW)])
def test_a_run_of_two_processes_that_was_stopped_resumes_to_the_same_weights(train: Train, sharded: str) -> None:
    """λ is found, samples are trained on, and both go on with what the checkpoint and the folder have."""
    constraint = {"multiplier": "dual", "target": 0.9}
    settings = {"positions": "both", "anchor": "iteration", "measure_every": 2, "measure_samples": 8, "save_steps": 2}
    order = {"constraint": constraint, "settings": settings, "sharded": sharded}
    whole = train(f"whole{sharded}", 2, **order)
    folder = train(f"stopped{sharded}", 2, expected=[1, 1], stops_at=5, **order)
    assert not (folder / "model").exists()
    assert fault(folder / "checkpoint-4") is None  # as `adhere train --resume` looks at it
    train(f"stopped{sharded}", 2, resume=str(folder / "checkpoint-4"), **order)
    for process in (0, 1):
        expected, found = (load_file(run / f"weights-{process}.safetensors") for run in (whole, folder))
        assert all((found[name] == weight).all() for name, weight in expected.items())
    told = [json.loads((run / "targets.json").read_text()) for run in (whole, folder)]
    assert told[0] == told[1]
    logs = json.loads((whole / "logs-0.json").read_text())
    assert len({line["multiplier/no z"] for line in logs if "multiplier/no z" in line}) > 2
    assert logs == json.loads((whole / "logs-1.json").read_text())


@SLOW
def test_a_worker_process_of_the_first_makes_guidance_for_both(train: Train) -> None:
    """Parallel: the guidance of the second boundary was made, meanwhile, of the policy as it stood at the first."""
    folder = train("parallel", 2, settings={"schedule": "parallel", "iterations": 3})
    logs = [json.loads((folder / f"logs-{process}.json").read_text()) for process in (0, 1)]
    assert logs[0] == logs[1]
    assert [line["staleness/iterations"] for line in logs[0] if "staleness/iterations" in line] == [0.0, 1.0, 1.0]
    weights = [load_file(folder / f"weights-{process}.safetensors") for process in (0, 1)]
    assert all((weights[1][name] == weight).all() for name, weight in weights[0].items())


def test_samples_of_two_processes_are_gone_on_with_by_one(train: Train, base: Path) -> None:
    """What is on disk does not say how many drew it."""
    folder = train("many-hands", 2, expected=[3, 1], breaks=1, settings={"violating_rows": "learn"})
    before = (folder / "samples/iteration-0000.jsonl").read_bytes()
    train("many-hands", 1, settings={"violating_rows": "learn"})
    assert (folder / "samples/iteration-0000.jsonl").read_bytes() == before
    assert (folder / "weights-0.safetensors").exists()
