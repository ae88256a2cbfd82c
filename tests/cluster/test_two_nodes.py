"""A Ray cluster of two nodes on this machine, and one of them disappears in the middle of a refresh.

Not part of the other tests, since it takes minutes: `make test-cluster` runs it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.skipif("CLUSTER" not in os.environ, reason="takes minutes: make test-cluster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head node with room for all but one of the actors, to which nodes can be added."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        arguments = {"num_cpus": 3, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        made = Cluster(initialize_head=True, head_node_args=arguments)
        yield made
        ray.shutdown()
        made.shutdown()


def _add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)


@pytest.fixture
def make_refresher(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    from adhere.guidance.config import FitConfig, RefreshConfig
    from adhere.guidance.constraint import Constraint
    from adhere.guidance.refresh import Refresher
    from adhere.models.frozen import FrozenModel, fast_dtype
    from adhere.models.nado_config import NadoConfig
    from adhere.models.policy import prepare_tokenizer
    from adhere.oracles.rules import RegexOracle
    from adhere.records import Prompt
    from adhere.sampling.sampler import SamplingConfig

    def make(folder: str, report: Callable[[str, Any], None]) -> Refresher:
        return Refresher(
            tokenizer=prepare_tokenizer(tiny_tokenizer),
            reference=FrozenModel(tiny_model, fast_dtype(tiny_model.device)),
            constraints=[Constraint(RegexOracle("[aeiou]"), name="no vowels")],
            prompts=[Prompt(number, "ab" if number % 2 else "the c") for number in range(240)],
            corpus=(),
            folder=tmp_path / folder,
            sampling=SamplingConfig(max_new_tokens=30, batch_size=2),
            refresh=RefreshConfig(samples=240),
            nado=NadoConfig(width=8, heads=2, rank=4),
            fitting=FitConfig(epochs=1, batch_size=16, consistency_positions=16),
            seed=3,
            report=report,
        )

    return make


def test_a_node_that_disappears_takes_nothing_with_it(
    cluster: Any, make_refresher: Callable[..., Any], tiny_model: Any, tmp_path: Path
) -> None:
    """Both nodes sample; one is removed when outputs of both are on disk. Samples, labels and guidance are those of one
    process."""
    import torch

    from adhere.guidance.executors import InProcess
    from adhere.guidance.ray import RayExecutor
    from adhere.guidance.ray_config import RayConfig
    from adhere.guidance.refresh import Request

    other = _add_node(cluster)
    batches: list[int] = []
    removed = threading.Event()

    def report(event: str, numbers: dict[str, Any]) -> None:
        if event == "sampled":
            batches.append(numbers["batch"])

    executor = RayExecutor(make_refresher("there", report), None, RayConfig(address=cluster.address, samplers=2), 600.0)
    first = Request(0, 0, 0, None)
    pending = executor.submit(first, tiny_model)
    start, nodes = time.monotonic(), 0
    while not pending.done():
        assert time.monotonic() - start < 900
        crew = executor._crews.samplers  # type: ignore[union-attr]
        at_work = {each.handle._ray_actor_id for each in [*crew._busy.values(), *crew._idle] if each.version}
        nodes = max(nodes, len(at_work))
        if not removed.is_set() and len(batches) >= 10 and nodes == 2:
            cluster.remove_node(other)
            removed.set()
            told = {"removed after batches": len(batches)}
        time.sleep(0.02)
    guidance = pending.result()
    assert removed.is_set() and len(batches) == 120
    lost = executor._crews.samplers.lost + executor._crews.judges.lost + executor._crews.fitter.lost  # type: ignore[union-attr]
    executor.close()
    print(json.dumps({**told, "actors lost": lost, "seconds": round(time.monotonic() - start, 1)}))
    assert lost >= 1

    alone = InProcess(make_refresher("here", lambda *_: None)).submit(first, tiny_model).result()
    for kind in ("samples", "labels"):
        name = Path(kind) / "iteration-0000.jsonl"
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    for name, nado in alone.nados.items():
        for key, value in nado.state_dict().items():
            assert torch.equal(value, guidance.nados[name].state_dict()[key])


def test_a_recipe_is_trained_on_a_cluster_from_the_command_line(
    cluster: Any, tiny_policy_folder: Path, tmp_path: Path
) -> None:
    """`adhere train recipe.yaml --executor ray`, in parallel, over two nodes."""
    import subprocess
    import sys

    _add_node(cluster)
    rows = [{"text": f"{word} the cat{', oh' * (n % 3)}"} for n in range(16) for word in ("my", "sh", "a b c", "why")]
    corpus, recipe = tmp_path / "corpus.jsonl", tmp_path / "recipe.yaml"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe.write_text(
        json.dumps({
            "model": {"path": str(tiny_policy_folder)},
            "corpus": {"path": str(corpus), "max_length": 24, "prompt_words": 1, "holdout": 0.1},
            "constraints": [{"name": "no_e", "oracle": {"kind": "regex", "pattern": "e"}}],
            "sampling": {"max_new_tokens": 8, "batch_size": 4},
            "guidance": {"iterations": 3, "samples": 16, "schedule": "parallel",
                         "ray": {"address": cluster.address, "samplers": 2, "sampler_cpus": 0.5}},
            "nado": {"width": 8, "heads": 2, "rank": 4},
            "nado_fit": {"epochs": 1, "consistency_positions": 8, "corpus_rows": 8},
            "training": {"max_steps": 6, "batch_size": 2},
            "output_dir": str(tmp_path / "run"),
        }),
        encoding="utf-8",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "adhere", "train", str(recipe), "--executor", "ray"],
        capture_output=True, text=True, timeout=1800, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    run = tmp_path / "run"
    assert (run / "model" / "model.safetensors").exists()
    # Parallel makes none in the last iteration: nothing would be trained with it.
    assert sorted(path.name for path in (run / "guidance").iterdir()) == ["iteration-0000", "iteration-0001"]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"schedule": "parallel", "executor": "ray"}.items() <= next(
        e for e in events if e["event"] == "schedule"
    ).items()
