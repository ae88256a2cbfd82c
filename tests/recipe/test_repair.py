"""A finished run is damaged in every way: the doctor says so, --repair moves it aside, --resume ends with the same model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adhere.errors import RunFolderError
from adhere.recipe.doctor import doctor
from adhere.recipe.load import load_recipe
from adhere.recipe.lock import run_lock
from adhere.recipe.repair import repair
from adhere.recipe.train import train_recipe

MakeRecipe = Callable[..., object]
Damage = Callable[[Path], object]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of four steps in two iterations that has ended; it is copied, never changed."""
    folder = tmp_path_factory.mktemp("finished")
    nouns = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat", "ant", "bee", "elk", "emu")
    rows = [{"text": f"a {noun} is {word} now"} for noun in nouns for word in ("bad", "good")]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": {"path": str(tiny_model)},
        "corpus": {"path": str(folder / "corpus.jsonl"), "prompt_words": 2, "max_length": 32, "holdout": 0.25},
        "constraints": [{"oracle": {"kind": "words", "words": ["bad"]}}],
        "sampling": {"max_new_tokens": 8, "batch_size": 8},
        "guidance": {"iterations": 2, "samples": 8},
        "nado": {"width": 8, "heads": 2, "rank": 4},
        "nado_fit": {"epochs": 1, "corpus_rows": 16, "consistency_positions": 8},
        "training": {"max_steps": 4, "batch_size": 4, "bf16": False},
        "output_dir": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return train_recipe(load_recipe(folder / "recipe.yaml"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, which may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def cut(name: str) -> Damage:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-40])


def flip(name: str) -> Damage:
    """One bit in the middle."""

    def damage(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)

    return damage


def remove(name: str) -> Damage:
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


DAMAGES: dict[str, tuple[Damage, str, str]] = {  # what is done, what the doctor says, what is moved or put back
    "a truncated file of samples": (cut("samples/iteration-0001.jsonl"), "samples/iteration-0001.jsonl has", "put back"),
    "a changed letter in the samples": (flip("samples/iteration-0000.jsonl"), "samples/iteration-0000.jsonl", "moved"),
    "a truncated file of labels": (cut("labels/iteration-0001.jsonl"), "labels/iteration-0001.jsonl has", "put back"),
    "broken labels of the corpus": (
        lambda run: (run / "labels" / "corpus.jsonl").write_text("{}\n{\n"), "labels/corpus.jsonl", "moved"),
    "a flipped bit in NADO": (flip("guidance/iteration-0001/nado.safetensors"), "nado.safetensors has other", "put back"),
    "a flipped bit in guidance no checkpoint keeps": (
        flip("guidance/iteration-0000/nado.safetensors"), "guidance/iteration-0000: nado", "moved"),
    "guidance that is missing": (remove("guidance/iteration-0001"), "guidance/iteration-0001 is missing", "put back"),
    "a flipped bit in the optimiser of a checkpoint": (
        flip("checkpoint-4/optimizer.pt"), "checkpoint-4: optimizer.pt has other bytes", "checkpoint-4 was moved"),
    "a file of a checkpoint that is missing": (remove("checkpoint-4/scheduler.pt"), "checkpoint-4: scheduler.pt", "moved"),
    "a flipped bit in the model": (flip("model/model.safetensors"), "model/model.safetensors has other", "model was moved"),
    "a model that was cut short": (cut("model/model.safetensors"), "model/model.safetensors has", "model was moved"),
    "a model that is missing": (remove("model"), "model/ is missing though training ended", "training.json was moved"),
    "a manifest that is no JSON": (cut("manifest.json"), "manifest.json:", "manifest.json was moved"),
    "a manifest that was changed": (
        lambda run: (run / "manifest.json").write_text("{}"), "manifest.json has 2 bytes", "manifest.json was moved"),
    "a log that is no JSON": (cut("log_history.json"), "log_history.json:", "log_history.json was moved"),
    "the end of training that is no JSON": (cut("training.json"), "training.json:", "training.json was moved"),
    "every checkpoint and the model": (
        lambda run: [flip(f"{name}/model.safetensors")(run) for name in ("checkpoint-2", "checkpoint-4", "model")],
        "checkpoint-2: model.safetensors", "guidance/iteration-0001 was moved"),
}  # fmt: skip


def _digest(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_moved_aside_and_made_again(damage: str, run: Path, finished: Path) -> None:
    strike, said, done = DAMAGES[damage]
    strike(run)
    held = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    told = [finding for finding in doctor(run) if finding.severity == "damaged"]
    assert said in " | ".join(finding.what for finding in told)
    assert all(finding.advice for finding in told)
    assert done in " | ".join(repair(run))
    assert [finding.what for finding in doctor(run) if finding.severity == "damaged"] == []
    moved = {Path(*path.relative_to(run).parts[2:]) for path in run.glob("damaged/*/**/*") if path.is_file()}
    # Nothing was deleted.
    assert held <= moved | {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    recipe = load_recipe(finished.parent / "recipe.yaml", [f"output_dir={json.dumps(str(run))}"])
    train_recipe(recipe, resume=True)
    assert [finding.what for finding in doctor(run) if finding.severity == "damaged"] == []
    assert _digest(run) == _digest(finished)


@pytest.mark.parametrize("way", ["run/../run", "link"])
def test_damage_is_found_by_whichever_way_one_comes(way: str, run: Path) -> None:
    (run.parent / "link").symlink_to(run)
    (run / "samples" / "iteration-0001.jsonl").unlink()
    flip("samples/iteration-0000.jsonl")(run)
    damaged = [finding.what for finding in doctor(run.parent / way) if finding.severity == "damaged"]
    assert any(what.startswith("samples/iteration-0000.jsonl") for what in damaged)
    assert "samples/iteration-0001.jsonl is missing" in damaged
    assert "samples/iteration-0001.jsonl was put back from checkpoint-4" in repair(run.parent / way)


def test_digests_that_lead_out_of_the_folder_are_not_followed_to_repair_there(run: Path) -> None:
    told = json.dumps({"../../../not-ours.txt": {"bytes": 1, "sha256": "0"}})
    (run / "guidance" / "iteration-0000" / "digests.json").write_text(told, encoding="utf-8")
    doctor(run)
    repair(run)
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]


def test_a_healthy_run_has_nothing_to_repair(run: Path) -> None:
    assert {finding.severity for finding in doctor(run)} == {"ok"}
    assert repair(run) == []
    assert not (run / "damaged").exists()


def test_files_of_others_are_told_and_left_alone(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "model" / ".model.safetensors.12ab.part").write_text("half")
    warned = [finding.what for finding in doctor(run) if finding.severity == "warning"]
    assert any("notes.txt is nothing that adhere writes" in what for what in warned)
    assert any(".model.safetensors.12ab.part was left by a stopped run" in what for what in warned)
    assert repair(run) == []
    assert (run / "notes.txt").read_text() == "mine"


def test_a_lost_recipe_cannot_be_repaired(run: Path) -> None:
    (run / "recipe.yaml").write_text("model: [", encoding="utf-8")
    assert repair(run) == []
    assert doctor(run)[0].severity == "damaged" and "put the recipe back" in doctor(run)[0].advice


def test_a_run_that_lost_its_recipe_is_a_run_all_the_same(run: Path) -> None:
    (run / "recipe.yaml").unlink()
    assert doctor(run)[0].severity == "damaged" and "put the recipe back" in doctor(run)[0].advice


@pytest.mark.parametrize("name", ["package.json", "manifest.json", "model/config.json", "checkpoint-5/weights.bin"])
def test_the_folder_of_another_program_is_no_run_and_nothing_in_it_is_moved(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"manifest_version": 3,', encoding="utf-8")  # not even JSON
    for look in (doctor, repair):
        with pytest.raises(RunFolderError, match=r"holds no run: it has no recipe\.yaml"):
            look(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_run_at_work_is_not_repaired(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip("model/model.safetensors")(run)
    with run_lock(run):
        monkeypatch.setattr("adhere.recipe.lock._same", lambda one, other: False)  # this process is another
        with pytest.raises(RunFolderError, match="in use"):
            repair(run)
    assert (run / "model").exists()


def test_a_resume_finds_a_damaged_checkpoint_by_itself_and_keeps_it(run: Path, finished: Path) -> None:
    flip("checkpoint-4/optimizer.pt")(run)
    for name in ("training.json", "model"):
        remove(name)(run)
    recipe = load_recipe(finished.parent / "recipe.yaml", [f"output_dir={json.dumps(str(run))}"])
    train_recipe(recipe, resume=True)
    assert _digest(run) == _digest(finished)
    assert (run / "damaged" / "checkpoint-4" / "optimizer.pt").exists()


def test_damaged_guidance_is_not_used(run: Path) -> None:
    import torch

    from adhere.guidance.guidance import Guidance

    flip("guidance/iteration-0001/nado.safetensors")(run)
    with pytest.raises(RunFolderError, match=r"nado.safetensors has other bytes .*adhere doctor --repair"):
        Guidance.load(run / "guidance" / "iteration-0001", torch.zeros(257, 16))
