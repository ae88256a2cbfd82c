"""A recipe becomes a model; a run that was stopped goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adhere.data.collation import ConstrainedCollator
from adhere.errors import RunFolderError
from adhere.recipe.check import check_recipe
from adhere.recipe.folder import saved_recipe
from adhere.recipe.schema import Recipe
from adhere.recipe.train import train_recipe
from adhere.recipe.trained import load_trained

MakeRecipe = Callable[..., Recipe]
Told = list[tuple[str, int, int]]


class Stop(BaseException):
    """A stop that no `except Exception` catches, as Ctrl-C is."""


def _stop_at(step: int) -> Callable[..., None]:
    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if "fine-tuning" in stage and done == step:
            raise Stop

    return progress


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", ["constrained", "sft"])
def test_a_recipe_becomes_a_model(make_recipe: MakeRecipe, method: str) -> None:
    told: Told = []
    recipe = make_recipe(method=method)
    folder = train_recipe(recipe, progress=lambda stage, done, total, note="": told.append((stage, done, total)))
    assert folder == recipe.output_dir
    assert saved_recipe(folder) == recipe
    before = load_file(Path(recipe.model.path) / "model.safetensors")
    assert not _same(before, _weights(folder))
    assert load_trained(folder, recipe).tokenizer.pad_token_id is not None
    assert _json(folder / "training.json")["steps"] == 4
    assert _json(folder / "training.json")["train_seconds"] > 0
    losses = [line["loss"] for line in _json(folder / "log_history.json") if "loss" in line]
    assert len(losses) >= 2
    manifest = _json(folder / "manifest.json")
    assert manifest["method"] == method
    assert set(manifest) >= {"command", "date", "seeds", "corpus", "versions", "machine"}
    assert len(manifest["corpus"]["sha256"]) == 64
    assert not (folder / "run.lock").exists()
    assert not {path.suffix for path in (folder / "model").iterdir()} & {".bin", ".pt", ".pth", ".pkl"}
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert (stages[0], told[-1][1:]) == (f"{'constrained' if method == 'constrained' else 'plain'} fine-tuning", (4, 4))
    assert ("sampling for guidance" in stages) == (method == "constrained")


def test_both_methods_learn_the_same_rows_in_the_same_order(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    collate = ConstrainedCollator.__call__

    def watched(self: ConstrainedCollator, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        seen[-1] += [int(row["row"]) for row in rows]
        return collate(self, rows)

    monkeypatch.setattr(ConstrainedCollator, "__call__", watched)
    for method in ("constrained", "sft"):
        seen.append([])
        train_recipe(make_recipe(method=method, output_dir=str(tmp_path / method)))
    assert len(seen[0]) >= 16
    assert seen[0] == seen[1]


@pytest.mark.parametrize("method", ["constrained", "sft"])
def test_a_stopped_run_resumes_to_the_very_same_weights(make_recipe: MakeRecipe, tmp_path: Path, method: str) -> None:
    steps = {"save_steps": 2}
    whole = train_recipe(make_recipe(method=method, training=steps, output_dir=str(tmp_path / "whole")))
    stopped = make_recipe(method=method, training=steps)
    with pytest.raises(Stop):
        train_recipe(stopped, progress=_stop_at(3))
    assert not (stopped.output_dir / "model").exists()
    assert not (stopped.output_dir / "run.lock").exists()
    assert _same(_weights(train_recipe(stopped, resume=True)), _weights(whole))


def test_a_run_stopped_before_its_first_checkpoint_begins_anew_with_the_samples_on_disk(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    whole = train_recipe(make_recipe(output_dir=str(tmp_path / "whole")))
    stopped = make_recipe()
    with pytest.raises(Stop):
        train_recipe(stopped, progress=_stop_at(1))
    samples = stopped.output_dir / "samples" / "iteration-0000.jsonl"
    written = samples.stat().st_mtime_ns
    assert _same(_weights(train_recipe(stopped, resume=True)), _weights(whole))
    assert samples.stat().st_mtime_ns == written


def test_a_checkpoint_in_pieces_is_removed_and_the_one_before_it_used(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    whole = train_recipe(make_recipe(output_dir=str(tmp_path / "whole")))
    stopped = make_recipe()
    with pytest.raises(Stop):
        train_recipe(stopped, progress=_stop_at(3))
    good = stopped.output_dir / "checkpoint-2"
    pieces = stopped.output_dir / "checkpoint-3"
    shutil.copytree(good, pieces)
    (pieces / "trainer_state.json").unlink()
    told: Told = []
    train_recipe(stopped, resume=True, progress=lambda stage, done, total, note="": told.append((stage, done, total)))
    assert told[0] == ("constrained fine-tuning", 2, 4)
    assert not pieces.exists()
    assert _same(_weights(stopped.output_dir), _weights(whole))


def test_a_finished_run_is_left_as_it_is_by_a_resume(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="sft")
    train_recipe(recipe)
    written = (recipe.output_dir / "model" / "model.safetensors").stat().st_mtime_ns
    assert train_recipe(recipe, resume=True) == recipe.output_dir
    assert (recipe.output_dir / "model" / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_with_a_run_is_refused_without_resume(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="sft")
    train_recipe(recipe)
    with pytest.raises(RunFolderError, match=r"holds another run: sft, begun .*, finished\. Give --resume"):
        check_recipe(recipe)


def test_a_resume_with_another_recipe_is_refused_and_names_what_differs(make_recipe: MakeRecipe) -> None:
    with pytest.raises(Stop):
        train_recipe(make_recipe(), progress=_stop_at(1))
    changed = make_recipe(constraints=[{"oracle": {"kind": "words", "words": ["good"]}}])
    with pytest.raises(RunFolderError, match=r"constraints\[0\]\.oracle\.words\[0\] was 'bad' and is 'good' now"):
        train_recipe(changed, resume=True)


def test_a_resume_may_change_how_the_model_is_evaluated(make_recipe: MakeRecipe) -> None:
    with pytest.raises(Stop):
        train_recipe(make_recipe(method="sft"), progress=_stop_at(1))
    changed = make_recipe(method="sft", evaluation={"samples_per_prompt": 3})
    train_recipe(changed, resume=True)
    assert saved_recipe(changed.output_dir).evaluation.samples_per_prompt == 3


def test_a_resume_with_another_corpus_is_refused(make_recipe: MakeRecipe, corpus: Path) -> None:
    with pytest.raises(Stop):
        train_recipe(make_recipe(), progress=_stop_at(1))
    corpus.write_text(corpus.read_text(encoding="utf-8") + '{"text": "one more bad row here"}\n', encoding="utf-8")
    with pytest.raises(RunFolderError, match="the corpus is not what it was"):
        train_recipe(make_recipe(), resume=True)


def test_an_adapter_is_trained_saved_alone_and_loaded_with_its_model(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(model={"lora": {"r": 2, "alpha": 4}})
    folder = train_recipe(recipe)
    assert (folder / "model" / "adapter_config.json").exists()
    assert not (folder / "model" / "model.safetensors").exists()
    model = load_trained(folder, recipe).model
    assert not hasattr(model, "peft_config") or not model.peft_config
    before = load_file(Path(recipe.model.path) / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(model.state_dict()[name], before[name])
    assert torch.equal(model.state_dict()["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
