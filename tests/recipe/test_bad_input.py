"""Bad input ends in one clear error, before anything is spent and with nothing lost.

Every case goes through `check_recipe`, which is what `adhere check` runs and what `adhere train` runs first.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adhere.errors import AdhereError, CorpusError, GuidanceError, ModelError, OracleError, RecipeError, RunFolderError
from adhere.recipe.check import PROBES, check_recipe
from adhere.recipe.load import dump_recipe, load_recipe
from adhere.recipe.schema import Recipe
from adhere.recipe.train import train_recipe

MakeRecipe = Callable[..., Recipe]

ORACLES = """
calls = []

def raises(outputs):
    raise ValueError("the server said no")

def one_too_few(outputs):
    return [1.0] * (len(outputs) - 1)

def too_high(outputs):
    return [1.7 for _ in outputs]

def not_a_number(outputs):
    return [float("nan") for _ in outputs]

def always_satisfied(outputs):
    calls.append(len(outputs))
    return [1.0 for _ in outputs]

def no_probe_text(outputs):
    return [0.0 if "idiot" in output else 1.0 for output in outputs]

def short(outputs):
    return [1.0 if len(output) < 30 else 0.0 for output in outputs]
"""


@pytest.fixture(autouse=True)
def oracles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_oracles.py").write_text(ORACLES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def _refused(recipe: Recipe, kind: type[AdhereError], *said: str) -> None:
    """`train` stops with this error, and no run folder was made."""
    with pytest.raises(AdhereError) as caught:
        train_recipe(recipe)
    assert type(caught.value) is kind
    for words in said:
        assert words in str(caught.value)
    assert not recipe.output_dir.exists()


def _callable(name: str) -> list[dict[str, Any]]:
    return [{"oracle": {"kind": "callable", "function": f"bad_oracles:{name}"}}]


def _changed(recipe: Recipe, tmp_path: Path, old: str, new: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe).replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


def test_an_unknown_recipe_key_is_named_with_the_nearest_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    message = _changed(make_recipe(), tmp_path, "weight_decay: 0.0\n", "weigth_decay: 0.0\n")
    assert "training.weigth_decay is unknown" in message
    assert "did you mean weight_decay?" in message


def test_a_value_of_the_wrong_type_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    message = _changed(make_recipe(), tmp_path, "max_steps: 4", "max_steps: four")
    assert "training.max_steps must be a whole number, got 'four'" in message


def test_a_value_out_of_range_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    message = _changed(make_recipe(), tmp_path, "target: 1.0", "target: 1.5")
    assert "constraints[0].target must be in (0, 1], got 1.5" in message


def test_a_missing_corpus_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    missing = tmp_path / "none.jsonl"
    _refused(make_recipe(corpus={"path": str(missing)}), CorpusError, str(missing), "no such file")


def test_an_empty_corpus_is_named(make_recipe: MakeRecipe, corpus: Path) -> None:
    corpus.write_text("", encoding="utf-8")
    _refused(make_recipe(), CorpusError, str(corpus), "empty")


def test_a_row_without_text_is_named_with_its_line(make_recipe: MakeRecipe, corpus: Path) -> None:
    lines = corpus.read_text(encoding="utf-8").splitlines()
    corpus.write_text("\n".join([*lines[:2], '{"text": ""}', *lines[2:]]), encoding="utf-8")
    _refused(make_recipe(), CorpusError, f"{corpus}, line 3", "without text", "corpus.skip_empty_rows")


def test_invalid_utf8_is_named_with_its_byte(make_recipe: MakeRecipe, corpus: Path) -> None:
    corpus.write_bytes(corpus.read_bytes() + b'{"text": "caf\xe9 au lait s\'il vous plait"}\n')
    _refused(make_recipe(), CorpusError, f"{corpus}, line 25", "not UTF-8")


def test_a_line_of_ten_million_characters_is_refused(make_recipe: MakeRecipe, corpus: Path) -> None:
    with corpus.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": "word " * 2_000_000}) + "\n")
    _refused(make_recipe(), CorpusError, f"{corpus}, line 25", "longer than 1,000,000 characters")


def test_a_model_folder_without_weights_is_named_with_what_it_holds(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    _refused(make_recipe(model={"path": str(bare)}), ModelError, "holds no weights", "config.json")


def test_model_weights_that_were_cut_short_are_named(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(tiny_model, torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    _refused(make_recipe(model={"path": str(torn)}), ModelError, str(weights), "damaged")


def test_a_tokenizer_without_a_pad_token_is_no_error(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    assert "pad_token" not in json.loads((tiny_model / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert check_recipe(make_recipe()).steps == 4


def test_an_oracle_that_raises_is_named(make_recipe: MakeRecipe) -> None:
    _refused(make_recipe(constraints=_callable("raises")), OracleError, "'raises'", "the server said no")


def test_an_oracle_that_returns_the_wrong_count_is_named(make_recipe: MakeRecipe) -> None:
    _refused(
        make_recipe(constraints=_callable("one_too_few")), OracleError, "'one_too_few'", "list of 18 scores", "got 17"
    )


def test_an_oracle_that_returns_1_7_is_named(make_recipe: MakeRecipe) -> None:
    _refused(make_recipe(constraints=_callable("too_high")), OracleError, "'too_high'", "in [0, 1]", "got 1.7")


def test_an_oracle_that_returns_nan_is_named(make_recipe: MakeRecipe) -> None:
    _refused(make_recipe(constraints=_callable("not_a_number")), OracleError, "'not_a_number'", "got nan")


def test_a_second_judge_is_tried_as_well(make_recipe: MakeRecipe) -> None:
    judge = {"kind": "callable", "function": "bad_oracles:not_a_number"}
    _refused(make_recipe(evaluation={"judges": [judge]}), OracleError, "'not_a_number'", "got nan")


def test_a_constant_oracle_is_refused_with_advice(make_recipe: MakeRecipe) -> None:
    _refused(
        make_recipe(constraints=_callable("always_satisfied")),
        GuidanceError,
        "'always_satisfied'", "gives 1 to everything", "18 corpus rows", "8 outputs of the model", "right way round",
    )  # fmt: skip


def test_an_oracle_that_is_constant_on_the_corpus_alone_is_a_warning(make_recipe: MakeRecipe) -> None:
    assert any("idiot" in probe for probe in PROBES)
    plan = check_recipe(make_recipe(constraints=_callable("no_probe_text")))
    assert any("every corpus row tried (18) satisfies it" in warning for warning in plan.warnings)
    assert not any("every corpus row" in warning for warning in check_recipe(make_recipe()).warnings)


def test_an_output_folder_that_holds_another_run_is_refused_and_left_alone(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(method="sft")
    train_recipe(recipe)
    before = {path: path.stat().st_mtime_ns for path in recipe.output_dir.rglob("*")}
    with pytest.raises(RunFolderError, match=r"holds another run: sft, begun .*Give --resume"):
        train_recipe(make_recipe(seed=1))
    with pytest.raises(RunFolderError, match=r"begun with another recipe: seed was 0 and is 1 now"):
        train_recipe(make_recipe(method="sft", seed=1), resume=True)
    assert {path: path.stat().st_mtime_ns for path in recipe.output_dir.rglob("*")} == before


def test_an_output_folder_with_other_things_in_it_is_refused_and_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("x", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"holds no run of adhere: it has chapter1\.tex"):
        train_recipe(make_recipe(output_dir=str(folder)))
    with pytest.raises(RunFolderError, match="is a file; give a folder"):
        check_recipe(make_recipe(output_dir=str(folder / "chapter1.tex")))
    assert [path.name for path in folder.iterdir()] == ["chapter1.tex"]


def test_a_kernel_that_no_device_here_runs_is_refused(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    _refused(make_recipe(training={"fused_head": "triton"}), RecipeError, "training.fused_head", "an NVIDIA GPU")


def test_no_disk_space_is_told_before_the_run_with_what_it_needs(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10_000))
    _refused(make_recipe(), RunFolderError, "no disk space: the run needs up to", "make room")


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file data/3",
        "[enforce fail at inline_container.cc:672] . unexpected pos 499082432 vs 499082320",
        "basic_ios::clear: iostream error",
    ],
)
def test_a_disk_that_fills_up_in_the_middle_is_told_and_the_run_goes_on_from_there(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    from transformers import Trainer

    save = Trainer._save_optimizer_and_scheduler

    def full(self: Trainer, *_: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    recipe = make_recipe(method="sft", training={"save_steps": 2})
    with pytest.raises(RunFolderError, match=r"no space left to write .*: free some .* and resume"):
        train_recipe(recipe)
    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", save)
    assert (train_recipe(recipe, resume=True) / "model" / "model.safetensors").exists()


def test_a_prompt_longer_than_the_context_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("short\n" + "long " * 20 + "\n", encoding="utf-8")
    _refused(
        make_recipe(prompts={"path": str(prompts)}),
        CorpusError,
        "prompt longer than the context: prompt 1 ('long long", "context of 64", "has room for 56",
    )  # fmt: skip
    assert check_recipe(make_recipe(prompts={"path": str(prompts), "overlong": "truncate"})).prompts == 2


def test_rows_longer_than_the_context_are_named(make_recipe: MakeRecipe) -> None:
    _refused(make_recipe(corpus={"max_length": 65}), ModelError, "corpus.max_length is 65 tokens", "takes at most 64")


def test_more_iterations_than_steps_are_named(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(training={"max_steps": None, "epochs": 0.2}, guidance={"iterations": 3})
    _refused(recipe, RecipeError, "guidance.iterations is 3, and the run has only 1 steps")


def test_training_arguments_that_transformers_refuses_are_named(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(training={"arguments": {"load_best_model_at_end": True}})
    _refused(recipe, RecipeError, "transformers refuses these settings")
