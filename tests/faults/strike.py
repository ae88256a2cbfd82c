"""Strikes a run at a stated moment: the n-th thing it does in a place (sampling, labelling, fitting, training, saving).

What counts as a thing: a file of the run folder made, renamed, removed or written to, a pass of a model, a step of an
optimiser, a question to an oracle. The place is told by who is at work on the call stack, so it needs to know little of the
code. The same run does the same things in the same order, and so it can be struck at the same moment again.

    Strike({"place": "saving", "tick": 17, "how": "kill"}, folder).arm()
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

PLACES = ("sampling", "labelling", "fitting", "training", "saving")

_SAVING = {"_save_checkpoint", "_save_model", "on_save", "rotate_checkpoints"}
_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}


class Strike:
    """Counts what a run does, and does its worst at one of these things.

    Args:
        order: `place`, `tick` (from 1; 0 is at once) and `how`: "kill" (SIGKILL before it), "half" (SIGKILL in the middle of
            it, where it is a write), "interrupt" (SIGINT), "full" (no file can grow any more: `filler` is where to put a
            file that takes all the space, without it a limit on the size of files), "second" (another process is sent to
            the folder, by `second`, and its exit code put into the file `told`), "worker" (SIGKILL to the process that makes
            guidance beside this one). With `count`, a file, all is counted only.
        folder: of the run.
        second: trains in the same folder, in a process of its own; its exit code ends that process.
    """

    def __init__(self, order: dict[str, Any], folder: Path, second: Callable[[], int] | None = None) -> None:
        self._order, self._folder, self._second = order, str(folder), second
        self._counts: Counter[str] = Counter()
        self._struck = False

    def arm(self) -> None:
        """Begin to count in this process; there is no way back."""
        import torch
        from transformers import LlamaForCausalLM

        from adhere.models.nado import Nado
        from adhere.oracles.base import Oracle

        for owner, name in ((LlamaForCausalLM, "forward"), (Nado, "forward"), (torch.optim.AdamW, "step")):
            self._patch(owner, name)
        for oracle in _subclasses(Oracle):
            if "score" in vars(oracle):
                self._patch(oracle, "score")
        write, save = os.write, torch.save

        def written(descriptor: int, content: Any) -> int:
            if self._is_ours(os.readlink(f"/proc/self/fd/{descriptor}")) and self._tick():
                if self._order["how"] == "half":
                    write(descriptor, bytes(content)[: len(content) // 2])
                self._strike()
            return write(descriptor, content)

        def saved(value: object, file: Any, *arguments: Any, **keywords: Any) -> None:
            struck = self._is_ours(str(file)) and self._tick()
            if struck and self._order["how"] != "half":
                self._strike()
            save(value, file, *arguments, **keywords)
            if struck and self._order["how"] == "half":
                os.truncate(file, os.path.getsize(file) // 2)
                self._strike()

        os.write, torch.save = written, saved  # type: ignore[assignment]
        sys.addaudithook(self._heard)
        if self._order.get("tick") == 0:
            self._strike()

    def write_counts(self) -> None:
        """What was counted, by place, to the file that the order names."""
        Path(self._order["count"]).write_text(json.dumps(self._counts))

    def _patch(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def struck(*arguments: Any, **keywords: Any) -> Any:
            if self._tick():
                self._strike()
            return original(*arguments, **keywords)

        setattr(owner, name, struck)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _FILE_EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if self._is_ours(os.fspath(arguments[0])) and self._tick():
            self._strike()

    def _is_ours(self, path: str) -> bool:
        return path.startswith(self._folder + os.sep)

    def _tick(self) -> bool:
        """Count one thing; True when it is the one to strike at."""
        if self._struck:
            return False
        place = _place(sys._getframe(2), self._folder)
        if place is None:
            return False
        self._counts[place] += 1
        return "count" not in self._order and (place, self._counts[place]) == (
            self._order["place"],
            self._order["tick"],
        )

    def _strike(self) -> None:
        self._struck = True
        how = self._order["how"]
        if how in ("kill", "half"):
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        elif how == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif how == "full":
            fill(self._order.get("filler"))
        elif how == "worker":
            _kill_children()
        elif how == "second":
            assert self._second is not None
            child = os.fork()
            if not child:
                os._exit(self._second())
            Path(self._order["told"]).write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def _kill_children() -> None:
    """End whatever processes this one has started: the worker that makes guidance."""
    for thread in Path("/proc/self/task").iterdir():
        for child in (thread / "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)


def fill(filler: str | None) -> None:
    """Leave no room: a file takes all of it, or without a file system to fill, no file may grow."""
    if filler is None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return
    size = 2**20
    with open(filler, "wb", buffering=0) as stream:
        while size:
            try:
                stream.write(b"\0" * size)
            except OSError:
                size //= 2


def _place(frame: FrameType | None, folder: str) -> str | None:
    """Where a run is, by who called; None for what belongs to no place (the plan, the log, costs)."""
    found = None
    while frame is not None:
        name, module = frame.f_code.co_name, str(frame.f_globals.get("__name__", ""))
        if name in _SAVING:
            return "saving"
        if module in ("adhere.guidance.fit", "adhere.guidance.evidence") or (module, name) == (
            "adhere.guidance.guidance",
            "save",
        ):
            found = "fitting"
        elif module.startswith(("adhere.oracles", "adhere.guidance.label", "adhere.guidance.missing")):
            found = found or "labelling"
        elif module == "adhere.data.batch_log":
            path = frame.f_locals.get("path")
            found = found or {"samples": "sampling", "labels": "labelling"}.get(Path(str(path)).parent.name)
        elif module.startswith("adhere.sampling"):
            found = found or "sampling"
        elif name == "training_step" or (name == "step" and module.startswith("accelerate")):
            found = found or "training"
        frame = frame.f_back
    return found


def _subclasses(kind: type) -> list[type]:
    found = kind.__subclasses__()
    return [*found, *(each for one in found for each in _subclasses(one))]
