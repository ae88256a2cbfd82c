"""`adhere doctor --repair`: what is damaged is moved aside, never deleted, so that a resume goes on from the last whole state.

Samples, labels and guidance of which a checkpoint has a whole copy are put back from there; what a resume can make again is
left to it. Without any whole checkpoint training begins again at its first step: what later iterations have left goes aside
too, since the policy they were made from is gone.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from adhere.digests import broken
from adhere.files import cannot_write, whole_file, whole_folder
from adhere.recipe.checkpoints import DAMAGED, checkpoints, fault
from adhere.recipe.doctor import doctor
from adhere.recipe.folder import finished
from adhere.recipe.lock import run_lock
from adhere.training.boundaries import KEPT


def repair(run_folder: Path) -> list[str]:
    """Move aside what is damaged in a run folder, and put back what there is a copy of.

    Returns:
        a sentence for everything that was done.

    Raises:
        RunFolderError: there is no such folder, a process is at work in it, or it cannot be written.
    """
    findings = [finding for finding in doctor(run_folder) if finding.severity == "damaged"]
    run_folder = run_folder.resolve()
    paths = list(dict.fromkeys(path for finding in findings for path in finding.aside))
    if not paths:
        return []
    with run_lock(run_folder):
        aside, done = _Aside(run_folder), []
        for path in paths:
            done += aside.take(path)
        for path in paths:
            done += _put_back(run_folder, path)
        if finished(run_folder) is None and not any(fault(path) is None for _, path in checkpoints(run_folder)):
            for kind in ("guidance", "samples", "labels", "anchors", "snapshots"):
                for path in sorted((run_folder / kind).glob("iteration-*[1-9]*")):
                    done += aside.take(path)
    return done


class _Aside:
    """The folder below `damaged/` that one repair fills, laid out as the run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._run = run_folder
        stamp = time.strftime("%Y-%m-%d-%H%M%S")
        taken = [path.name for path in (run_folder / DAMAGED).glob(f"{stamp}*")]
        self._folder = run_folder / DAMAGED / (f"{stamp}-{len(taken) + 1}" if taken else stamp)

    def take(self, path: Path) -> list[str]:
        """Move a file or folder here, if it is there at all."""
        if not path.exists():
            return []
        target = self._folder / path.relative_to(self._run)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise cannot_write(target, error) from error
        name, where = path.relative_to(self._run).as_posix(), self._folder.relative_to(self._run).as_posix()
        return [f"{name} was moved to {where}/"]


def _put_back(run_folder: Path, path: Path) -> list[str]:
    """The copy of a file of an iteration beside the newest checkpoint that has a whole one."""
    name = path.relative_to(run_folder)
    for _, checkpoint in reversed(checkpoints(run_folder)):
        copy = checkpoint / KEPT / name
        wrong = broken(checkpoint)
        if path.exists() or not copy.exists() or wrong is None or any(copy in (file, *file.parents) for file in wrong):
            continue
        try:
            if copy.is_dir():
                with whole_folder(path) as part:
                    shutil.copytree(copy, part, dirs_exist_ok=True)
            else:
                with whole_file(path) as part:
                    shutil.copyfile(copy, part)
        except OSError as error:
            raise cannot_write(path, error) from error
        return [f"{name.as_posix()} was put back from {checkpoint.name}"]
    return []
