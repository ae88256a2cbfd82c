from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adhere.recipe.checkpoints import checkpoints, fault, newest_whole


def _checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"w": torch.zeros(4)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": torch.zeros(2)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    return folder


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-x").mkdir()
    assert [step for step, _ in checkpoints(tmp_path)] == [9, 20, 100]
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-100"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: _cut(folder / "model.safetensors"), "damaged file"),
        (lambda folder: _cut(folder / "optimizer.pt"), "optimizer.pt was cut short"),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda folder: _cut(folder / "trainer_state.json"), "damaged file"),
        (lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 3}'), "of step 3"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"w": "b.safetensors"}}'
            ),
            "b.safetensors is missing",
        ),
    ],
)
def test_what_a_checkpoint_lacks_is_told_and_the_one_before_it_is_used(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    good, broken = _checkpoint(tmp_path, 1), _checkpoint(tmp_path, 2)
    damage(broken)
    assert fault(good) is None
    assert said in (fault(broken) or "")
    assert newest_whole(tmp_path) == good
    assert not broken.exists()


def test_without_a_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "none") is None
    (_checkpoint(tmp_path, 1) / "optimizer.pt").unlink()
    assert newest_whole(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
