from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adhere.errors import RunFolderError
from adhere.recipe.lock import NAME, Owner, lock_owner, run_lock


def _write(folder: Path, owner: Owner) -> None:
    (folder / NAME).write_text(json.dumps(asdict(owner)), encoding="utf-8")


def _dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lock_says_who_holds_it_and_is_gone_afterwards(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        owner = lock_owner(tmp_path / "run")
        assert owner is not None
        assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
        assert owner.alive()
    assert lock_owner(tmp_path / "run") is None


def test_the_lock_is_let_go_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run_lock(tmp_path):
        raise KeyboardInterrupt
    assert not (tmp_path / NAME).exists()


def test_who_holds_it_may_take_it_again_and_keeps_it(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with run_lock(tmp_path):
            pass
        assert lock_owner(tmp_path) is not None


def test_another_live_process_is_named(tmp_path: Path) -> None:
    _write(tmp_path, replace(Owner.me(), pid=os.getppid(), born="", start="2031-01-01"))
    with (
        pytest.raises(RunFolderError, match=rf"in use: process {os.getppid()} on .* since 2031-01-01"),
        run_lock(tmp_path),
    ):
        pass
    assert lock_owner(tmp_path) is not None


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    _write(tmp_path, Owner(_dead_process(), socket.gethostname(), "then"))
    with run_lock(tmp_path):
        owner = lock_owner(tmp_path)
        assert owner is not None
        assert owner.pid == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process was started")
def test_a_later_process_with_the_same_number_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    _write(tmp_path, replace(Owner.me(), pid=os.getppid(), born="1"))
    with run_lock(tmp_path):
        pass


def test_the_lock_of_another_machine_counts(tmp_path: Path) -> None:
    _write(tmp_path, Owner(_dead_process(), "another-host", "then"))
    with pytest.raises(RunFolderError, match="on another-host"), run_lock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "host": 1}'])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content, encoding="utf-8")
    with run_lock(tmp_path):
        assert lock_owner(tmp_path) is not None
