"""A checkpoint holds what the rest of its iteration is trained with, so that it can be taken elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adhere.training.boundaries import keep, restore
from adhere.training.trainer import ConstrainedTrainer

SETTINGS: dict[str, Any] = {
    "max_steps": 6,
    "iterations": 3,
    "save_steps": 3,
    "anchor": "iteration",
    "positions": "both",
}


@pytest.mark.parametrize("step", [3, 4])  # in the middle of an iteration, and where the last one begins
def test_a_run_goes_on_in_another_folder_from_a_checkpoint_alone(
    make_trainer: Callable[..., ConstrainedTrainer], tmp_path: Path, step: int
) -> None:
    whole = make_trainer(**SETTINGS, output_dir=str(tmp_path / "whole"))
    whole.train()
    elsewhere = tmp_path / "elsewhere" / f"checkpoint-{step}"
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", elsewhere)
    resumed = make_trainer(**SETTINGS, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(elsewhere))
    assert resumed.state.global_step == 6
    assert whole.model is not None and resumed.model is not None
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_the_run_folder_has_is_left_alone_and_where_there_are_no_links_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refused)
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoint-3"
    for name in ("samples/iteration-0001.jsonl", "labels/iteration-0001.jsonl", "samples/iteration-0002.jsonl"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("old")
    keep(run, checkpoint, 1)
    (run / "samples" / "iteration-0001.jsonl").write_text("new")
    (run / "labels" / "iteration-0001.jsonl").unlink()
    restore(run, checkpoint)
    assert (run / "samples" / "iteration-0001.jsonl").read_text() == "new"
    assert (run / "labels" / "iteration-0001.jsonl").read_text() == "old"
    assert not (checkpoint / "adhere" / "samples" / "iteration-0002.jsonl").exists()
