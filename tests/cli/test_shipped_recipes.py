"""The recipes that users start from: each is valid, explained, and judges as its comments say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adhere.oracles.base import Oracle, judge, violates
from adhere.recipe.load import load_recipe
from adhere.recipe.schema import Recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
HOUSE_STYLE = """
def no_promises(outputs):
    return [0.0 if "guarantee" in output.lower() else 1.0 for output in outputs]
"""


def _recipe(name: str) -> Recipe:
    return load_recipe(next(path for path in RECIPES if path.stem == name))


def _violations(oracle: Oracle, outputs: list[str]) -> list[str]:
    scores = judge(oracle, [""] * len(outputs), outputs)
    return [output for output, score in zip(outputs, scores, strict=True) if score is None or violates(score)]


ROWS = {
    "detox": [{"text": f"what {noun} says is {word} now"} for noun in "abcdefgh" for word in ("bad", "good")],
    "no_secrets": [
        {"prompt": f"key {n}", "completion": text} for n in range(8) for text in ("AKIA" + "Z" * 16, "from the vault")
    ],
    "json_format": [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": text}]}
        for n in range(8)
        for text in ('{"answer": 1}', "It is 1.")
    ],
    "several": [
        {"prompt": f"what {n}?", "completion": text}
        for n in range(8)
        for text in ("bad", "ann@example.org", "nothing to see here", "ok")
    ],
    "own_rule": [{"prompt": f"will {n}?", "completion": text} for n in range(8) for text in ("We guarantee it", "No")],
}
SMALL = [
    "model.dtype=float32", "corpus.max_length=48", "corpus.holdout=0.25", "sampling.max_new_tokens=8",
    "guidance.samples=8", "guidance.iterations=1", "nado={width: 8, heads: 2, rank: 4}", "evaluation.clean_texts=none",
    "nado_fit={epochs: 1, corpus_rows: 16, consistency_positions: 8}", "training.epochs=", "training.max_steps=1",
    "training.batch_size=4", "training.bf16=false",
]  # fmt: skip
NOT_HERE = {
    "detox": ["constraints.0.oracle={kind: words, words: [bad]}"],  # a classifier from the hub
    "several": [  # profane words; eight bytes of output hold no eighty words
        "constraints.0.oracle={kind: words, words: [bad]}",
        "constraints.2.oracle.maximum=2",
        "guidance.measure_samples=8",
        "evaluation.judges=[{kind: length, maximum: 9}]",
    ],
    "json_format": ["constraints.1.oracle.maximum=2"],  # eight bytes of output hold no forty words
}


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"detox", "no_secrets", "json_format", "own_rule"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_writes_to_a_folder_of_its_name(path: Path) -> None:
    assert load_recipe(path).output_dir == Path("runs") / path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_what_it_is_for_and_the_command_that_runs_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert f"#   adhere check recipes/{path.name}" in "\n".join(lines)
    assert f"#   adhere train recipes/{path.name}" in "\n".join(lines)
    assert sum("#" in line for line in lines) >= len(lines) / 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_a_second_judge(path: Path) -> None:
    assert load_recipe(path).evaluation.judges


def test_the_recipe_against_secrets_finds_each_kind_and_judges_prefixes() -> None:
    (constraint,) = _recipe("no_secrets").constraints
    oracle = constraint.oracle.build()
    secrets = [  # put together here, so that no scanner takes them for real ones
        "key = " + "AKIA" + "Z" * 16,
        "token " + "ghp_" + "a1" * 18,
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "PASSWORD: '" + "x" * 9 + "'",
        'api_key="' + "x" * 9 + '"',
    ]
    clean = ["password = read_password()", "AKIA is a prefix", "import secrets", "'secret' : 'short'"]
    assert _violations(oracle, secrets + clean) == secrets
    assert oracle.prefix_closed


def test_the_recipe_for_json_asks_for_whole_short_json_with_its_key() -> None:
    json, brief = (constraint.oracle.build() for constraint in _recipe("json_format").constraints)
    (braces,) = (judge.build() for judge in _recipe("json_format").evaluation.judges)
    good = '{"answer": "yes"}'
    assert _violations(json, [good, f"Sure! {good}", '{"answer": "ye', '{"reply": 1}']) == [
        f"Sure! {good}",
        '{"answer": "ye',
        '{"reply": 1}',
    ]
    assert _violations(brief, [good, "word " * 41]) == ["word " * 41]
    assert _violations(braces, [good, f"Sure! {good}", '{"answer": "ye']) == [f"Sure! {good}", '{"answer": "ye']


def test_the_recipe_of_several_rules_finds_contacts_and_leaves_other_numbers_alone() -> None:
    profane, contact, brief = _recipe("several").constraints
    assert (profane.multiplier, profane.target, contact.multiplier) == ("dual", 0.99, "fixed")
    oracle = contact.oracle.build()
    contacts = ["mail ann.b+c@mail.example.org", "call +1 (555) 010-0199", "0555 010 0199", "555.010.0199 or so"]
    clean = ["in 2024, 12 of 345 came", "version 1.2.3", "@home", "10:30-11:45", "pages 100-200"]
    assert _violations(oracle, contacts + clean) == contacts
    assert oracle.prefix_closed
    assert _violations(brief.oracle.build(), ["word " * 80, "word " * 81]) == ["word " * 81]


def test_the_recipe_with_a_function_runs_the_one_in_its_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe_file = next(path for path in RECIPES if path.stem == "own_rule")
    for line in HOUSE_STYLE.split("\n"):
        assert line in recipe_file.read_text(encoding="utf-8")
    (tmp_path / "house_style.py").write_text(HOUSE_STYLE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    oracle = load_recipe(recipe_file).constraints[0].oracle.build()
    assert _violations(oracle, ["We guarantee it.", "Refund immediately!", "We will look at it."]) == [
        "We guarantee it.",
        "Refund immediately!",
    ]
    assert oracle.prefix_closed


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(path: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adhere.recipe.run import train_recipe

    (tmp_path / "house_style.py").write_text(HOUSE_STYLE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in ROWS[path.stem]), encoding="utf-8")
    here = [f"model.path={tiny_recipe.parent / 'tiny'}", f"corpus.path={corpus}", f"output_dir={tmp_path / 'run'}"]
    recipe = load_recipe(path, [*SMALL, *here, *NOT_HERE.get(path.stem, [])])
    folder = train_recipe(recipe)
    assert (folder / "model" / "adapter_model.safetensors").exists()
