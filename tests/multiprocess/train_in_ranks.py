"""Trains in one process or in two that work together; `conftest` starts it.

Importing torch and transformers takes seconds, so it is done once: for every order, a line of JSON on stdin, as many children
are forked as are to train together, with the environment that a launcher would give them. The answer is a line with their
exit codes.

    {"processes": 2, "sharded": false, "folder": "runs/a", "settings": {...}, "lora": false, "fault": "", "log": "a.log"}

accelerate shards (FSDP) on accelerators alone: where an order says `sharded`, it is told that this CPU is one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import adhere.guidance.fit
import adhere.models.frozen
import adhere.models.whole
import adhere.training.adaptation
import adhere.training.frozen_passes
import adhere.training.trainer
from adhere import ranks
from adhere.errors import PeerError
from adhere.guidance import executors
from adhere.guidance.constraint import Constraint
from adhere.models.policy import Policy, prepare_tokenizer
from adhere.oracles.rules import RegexOracle
from adhere.training.config import ConstrainedConfig
from adhere.training.trainer import ConstrainedTrainer

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip


class Breaks(RegexOracle):
    """An oracle that raises in one process, the second time it is asked about outputs."""

    def __init__(self, pattern: str, process: int) -> None:
        super().__init__(pattern)
        self._process, self._left = process, 1

    def score(self, prompts: Any, outputs: Any) -> list[float | None]:
        self._left -= ranks.index() == self._process
        if self._left < 0:
            raise RuntimeError("the oracle broke")
        return super().score(prompts, outputs)


def _shard_on_cpu() -> None:
    state: Any = PartialState
    init = state.__init__

    def told(self: Any, *arguments: Any, **keywords: Any) -> None:
        init(self, *arguments, **keywords)
        if self.distributed_type == DistributedType.MULTI_CPU:
            state._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    state.__init__ = told


def _train(order: dict[str, Any]) -> None:
    base, folder = Path(order["base"]), Path(order["folder"])
    oracle = Breaks("z", order["breaks"]) if "breaks" in order else RegexOracle("z")
    rows = [json.loads(line) for line in (base / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    policy = Policy(
        AutoModelForCausalLM.from_pretrained(base / "model"),
        prepare_tokenizer(AutoTokenizer.from_pretrained(base / "model")),
    )
    trainer = ConstrainedTrainer(
        model=policy,
        args=ConstrainedConfig(output_dir=str(folder), **order["settings"]),
        train_dataset=rows,
        constraints=[Constraint(oracle, name="no z", **order.get("constraint", {}))],
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if order["lora"] else None,
    )
    if (at := order.get("stops_at")) is not None:
        _stop_at(trainer, at)
    trainer.train(resume_from_checkpoint=order.get("resume") or None)
    trainer.save_model(str(folder / "model"))
    whole = {name: weight.detach().clone().contiguous() for name, weight in trainer.policy().named_parameters()}
    timed = ("second", "runtime")
    logs = [{k: v for k, v in line.items() if not any(t in k for t in timed)} for line in trainer.state.log_history]
    save_file(whole, folder / f"weights-{ranks.index()}.safetensors")
    (folder / f"logs-{ranks.index()}.json").write_text(json.dumps(logs), encoding="utf-8")


def _stop_at(trainer: ConstrainedTrainer, step: int) -> None:
    compute = trainer.compute_loss

    def stopping(*arguments: Any, **keywords: Any) -> Any:
        if trainer.state.global_step == step:
            raise KeyboardInterrupt
        return compute(*arguments, **keywords)

    trainer.compute_loss = stopping  # type: ignore[method-assign]


def _prepare() -> None:
    """Float32 everywhere, so that sums differ by rounding alone, and fits that always take up what they learned."""
    losses = itertools.count(0, -1)
    adhere.guidance.fit._held_out_loss = lambda *_: float(next(losses))
    modules: list[Any] = [
        adhere.models.frozen, adhere.models.whole, adhere.training.adaptation, adhere.training.frozen_passes,
        adhere.training.trainer, executors,
    ]  # fmt: skip
    for module in modules:
        module.fast_dtype = lambda _: torch.float32


def _run(order: dict[str, Any], index: int, port: int) -> int:
    log = os.open(f"{order['log']}-{index}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    count = order["processes"]
    if count > 1:
        of_launcher = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in of_launcher.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    if order["sharded"]:
        os.environ.update(FSDP2, FSDP_STATE_DICT_TYPE=order["sharded"])
        _shard_on_cpu()
    try:
        _prepare()
        _train(order)
        return 0
    except PeerError as error:
        print(error)
        return 3
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for index in range(order["processes"]):
            child = os.fork()
            if not child:
                code = _run(order, index, port)
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
            children.append(child)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


if __name__ == "__main__":
    main()
