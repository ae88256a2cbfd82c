"""A recipe's mistakes are named with path, value, what is allowed, file and line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adhere.errors import RecipeError
from adhere.recipe.demo import demo_recipe
from adhere.recipe.load import dump_recipe, json_schema, load_recipe, parse_recipe
from adhere.recipe.schema import Recipe
from adhere.training.config import ConstrainedConfig
from adhere.training.method_config import MethodConfig

TEXT = """\
model: {path: embedded}
corpus:
  path: embedded
constraints:
  - oracle: {kind: embedded}
    target: 0.9
training:
  max_steps: 10
output_dir: runs/x
"""


def _error(*settings: str, text: str = TEXT) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", settings)
    return str(caught.value)


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT, encoding="utf-8")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.constraints[0].target, recipe.training.max_steps, recipe.seed) == (0.9, 10, 0)


def test_an_override_reaches_into_sections_and_lists() -> None:
    settings = ["training.learning_rate=2e-5", "constraints.0.weight=2", "constraints[0].name=x", "sampling.top_p=0.9"]
    recipe = parse_recipe(TEXT, overrides=settings)
    assert recipe.training.learning_rate == 2e-5
    assert (recipe.constraints[0].weight, recipe.constraints[0].name, recipe.sampling.top_p) == (2.0, "x", 0.9)


def test_an_override_fills_a_section_that_the_file_leaves_empty() -> None:
    text = TEXT.replace("training:\n  max_steps: 10\n", "training:\n")
    assert parse_recipe(text, overrides=["training.max_steps=7"]).training.max_steps == 7


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.max_steps"], "write it as section.key=value"),
        (["constraints.1.weight=2"], "--set constraints.1.weight=2: constraints is a list with the entries 0 to 0"),
        (["training.max_steps.x=2"], "training.max_steps is 10, not a section"),
        (["seed=[1"], "--set seed=[1, line 1, column 3: not YAML"),
        (["seed=a"], "seed must be a whole number, got 'a' (--set seed=a)"),
    ],
)
def test_a_wrong_override_is_named(settings: list[str], said: str) -> None:
    assert said in _error(*settings)


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one() -> None:
    message = _error(text=TEXT.replace("max_steps", "max_step"))
    assert "training.max_step is unknown (r.yaml, line 8); did you mean max_steps?" in message


def test_an_unknown_key_of_an_oracle_is_offered_that_oracles_keys() -> None:
    message = _error(text=TEXT.replace("{kind: embedded}", "{kind: regex, pattern: x, mod: required}"))
    assert "constraints[0].oracle.mod is unknown (r.yaml, line 5); did you mean mode?" in message


def test_a_value_out_of_range_is_named_with_the_whole_range_and_what_it_is() -> None:
    message = _error(text=TEXT.replace("0.9", "1.5"))
    assert message.startswith("constraints[0].target must be in (0, 1], got 1.5 (r.yaml, line 6): satisfaction asked")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_steps: 10", "max_steps: ten", "training.max_steps must be a whole number, got 'ten' (r.yaml, line 8)"),
        ("max_steps: 10", "max_steps: 0", "training.max_steps must be at least 1, got 0 (r.yaml, line 8)"),
        ("max_steps: 10", "bf16: maybe", "training.bf16 must be true or false or auto, got 'maybe'"),
        ("max_steps: 10", "learning_rate: .nan", "training.learning_rate must be"),
        ("  max_steps: 10", "  - 1", "training must be a section of keys and values"),
        ("{kind: embedded}", "{kind: embeded}", "constraints[0].oracle.kind must be one of embedded, regex"),
        ("{kind: embedded}", "{kind: embeded}", "did you mean embedded?"),
        ("{kind: embedded}", "{soft: true}", "constraints[0].oracle.kind is missing (r.yaml, line 5)"),
        ("{kind: embedded}", "{kind: regex}", "constraints[0].oracle.pattern is missing (r.yaml, line 5)"),
        ("{kind: embedded}", "{kind: not, oracle: {kind: words, words: [a], path: 3}}", "oracle.oracle.path must be"),
        ("model: {path: embedded}\n", "", "model is missing (r.yaml): which model"),
        ("  path: embedded\n", "  path: x\n  holdout: 1.5\n", "corpus.holdout must be less than 1 or a path, got 1.5"),
        ("  path: embedded\n", "  split: test\n", "corpus: give exactly one of path (a file) and dataset"),
        ("output_dir: runs/x", "output_dir: [1]", "output_dir must be a path, got [1] (r.yaml, line 9)"),
    ],
)
def test_a_wrong_value_is_named(old: str, new: str, said: str) -> None:
    assert said in _error(text=TEXT.replace(old, new, 1))


def test_every_mistake_is_named_at_once() -> None:
    message = _error("seed=-1", text=TEXT.replace("max_steps", "max_step").replace("0.9", "0"))
    assert len(message.splitlines()) == 3
    assert "at least 1 long" not in message  # pydantic misses a constraint that has an error of its own


def test_a_training_argument_is_known_typed_and_said_once() -> None:
    recipe = parse_recipe(TEXT, overrides=["training.arguments={adam_beta2: 0.95, optim: adamw_torch}"])
    assert recipe.training.arguments == {"adam_beta2": 0.95, "optim": "adamw_torch"}
    assert "training.arguments.optm is not one of transformers' TrainingArguments; did you mean optim?" in _error(
        "training.arguments.optm=x"
    )
    assert "arguments.adam_beta1 must be float, got 'x'" in _error("training.arguments.adam_beta1=x")
    assert "arguments.learning_rate is set as training.learning_rate" in _error("training.arguments.learning_rate=1")
    assert "arguments.anchor is set as guidance.anchor" in _error("training.arguments.anchor=live")
    assert "holds no secrets" in _error("training.arguments.hub_token=x")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.epochs=1"], "give max_steps or epochs, not both"),
        (["guidance.iterations=11"], "guidance.iterations (11) must be at most training.max_steps (10)"),
        (["evaluation.toxicity_k=2"], "toxicity_k (2) outputs of a prompt need samples_per_prompt of at least as many"),
        (["evaluation.judges=[{kind: embedded}]"], "two of constraints and evaluation.judges are called 'embedded'"),
        (["evaluation.judges=[{kind: embedded, name: other}]"], "a second judge must be one that nothing is trained"),
        (["nado.heads=3"], "heads (3) must divide width (256)"),
        (["constraints=[]"], "constraints must be at least 1 long"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings: list[str], said: str) -> None:
    assert said in _error(*settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [1", "r.yaml, line 1, column 10: not YAML"),
        ("", "a recipe is a mapping of sections"),
        ("- 1", "a recipe is a mapping of sections"),
        ("seed: 1\nseed: 2\n", "r.yaml, line 2: seed is said a second time (first in line 1)"),
        ("a: &x {b: *x}", "the alias holds itself"),
    ],
)
def test_what_is_no_recipe_at_all_is_named(text: str, said: str) -> None:
    assert said in _error(text=text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("model: Müller".encode("latin-1"))
    for path, said in (("none.yaml", "no such recipe"), (".", "is a folder"), ("latin.yaml", "byte 9: not UTF-8")):
        with pytest.raises(RecipeError, match=said):
            load_recipe(tmp_path / path)


def test_a_dumped_recipe_is_read_back_the_same() -> None:
    settings = [
        "model.lora={r: 4}", "evaluation.clean_texts=clean.txt", "corpus.columns={text: body}", "training.epochs=0.5",
        "training.max_steps=null", "constraints.0.oracle={kind: any, oracles: [{kind: words, words: [ä]}, {kind: json}]}",
    ]  # fmt: skip
    for recipe in (parse_recipe(TEXT), parse_recipe(TEXT, overrides=settings), demo_recipe(Path("runs/demo"))):
        assert parse_recipe(dump_recipe(recipe)) == recipe


def test_the_demos_recipe_writes_where_it_is_told_and_quick_makes_it_small() -> None:
    whole, quick = demo_recipe(Path("a: b/c"), seed=3), demo_recipe(Path("x"), quick=True)
    assert (whole.output_dir, whole.seed) == (Path("a: b/c"), 3)
    assert (quick.training.max_steps or 0) < (whole.training.max_steps or 0)


def test_the_schema_describes_every_field_of_every_section() -> None:
    schema = json_schema()
    json.dumps(schema)
    undescribed = [
        f"{name}.{key}"
        for name, section in {**schema["$defs"], "Recipe": schema}.items()
        for key, value in section.get("properties", {}).items()
        if key != "kind" and "description" not in value
    ]
    assert undescribed == []


def test_defaults_of_the_recipe_are_those_of_the_trainer(tmp_path: Path) -> None:
    recipe: Recipe = parse_recipe(TEXT)
    config = ConstrainedConfig(output_dir=str(tmp_path), use_cpu=True)
    for name in MethodConfig.model_fields:
        assert getattr(recipe.guidance, name) == getattr(config, name)
    assert (recipe.guidance.samples, recipe.nado, recipe.nado_fit) == (
        config.refresh.samples,
        config.nado,
        config.nado_fit,
    )
    assert (recipe.corpus.max_length, recipe.corpus.prompt_words) == (config.max_length, config.prompt_words)


def test_reading_a_recipe_brings_no_torch() -> None:
    code = (
        "import sys; from adhere.recipe.load import parse_recipe;"
        f"parse_recipe({TEXT!r}); print([m for m in ('torch', 'transformers', 'datasets', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
