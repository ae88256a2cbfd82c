"""A recipe with several rules, domains and a λ that is found: from YAML to a run, its evaluation and its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import RecipeError
from adhere.recipe.check import check_recipe
from adhere.recipe.evaluate import evaluate_run
from adhere.recipe.inputs import build_constraints
from adhere.recipe.load import dump_recipe, parse_recipe
from adhere.recipe.plan import measured_outputs
from adhere.recipe.schema import Recipe
from adhere.recipe.targets import target_sentences
from adhere.recipe.train import train_recipe
from adhere.report.html import write_report

MakeRecipe = Callable[..., Recipe]

RULES = [
    {"name": "no_bad", "oracle": {"kind": "words", "words": ["bad"]}, "target": 0.9, "multiplier": "dual"},
    {"name": "no_digits", "oracle": {"kind": "regex", "pattern": "[0-9]"}, "weight": 1.5},
    {"name": "brief", "oracle": {"kind": "length", "maximum": 2}, "target": 0.8},
]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows of two domains and of none; each rule is violated by some."""
    ends = ("bad", "7 or so", "good", "a very long way off")
    rows = [
        {"text": f"a {noun} is {end} now", "domain": ("chat", "news", None)[(number + place) % 3]}
        for number, noun in enumerate(("cat", "dog", "cow", "fox", "hen", "owl"))
        for place, end in enumerate(ends)
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make_mixed(make_recipe: MakeRecipe, mixed: Path) -> MakeRecipe:
    def make(**sections: Any) -> Recipe:
        settings: dict[str, Any] = {
            "corpus": {"path": str(mixed)},
            "constraints": RULES,
            "guidance": {"measure_every": 1, "measure_samples": 8},
            "domains": {"news": {"loss_weight": 0.5, "constraints": {"brief": 3.0}, "reference_kl": 0.5}},
        }
        return make_recipe(**{**settings, **sections})

    return make


def test_three_rules_are_trained_evaluated_and_reported_each_under_its_name(make_mixed: MakeRecipe) -> None:
    recipe = make_mixed()
    folder = train_recipe(recipe)
    log = json.loads((folder / "log_history.json").read_text())
    for name in ("no_bad", "no_digits", "brief"):
        assert len([line for line in log if f"satisfaction/{name}" in line]) >= 2
        assert any(f"kl/{name}" in line for line in log)
    assert [line["step"] for line in log if "multiplier/no_bad" in line] == [0, 1, 2, 3]
    assert not any("multiplier/brief" in line for line in log)
    assert {key.split("/")[1] for line in log for key in line if key.startswith("domain/")} == {
        "chat",
        "default",
        "news",
    }
    (sentence,) = target_sentences(folder)
    assert sentence.startswith("target 0.9 of no_bad ")

    evaluate_run(folder)
    page = write_report(folder).read_text(encoding="utf-8")
    rows = json.loads((folder / "evaluation" / "constrained.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    rates = {row["constraint"]: row["value"] for row in rows if row["name"] == "violation_rate"}
    assert rates.keys() == {"no_bad", "no_digits", "brief"}
    for name in rates:
        assert name in page
    assert "λ of the constraints for which it is found" in page and "target of no_bad" in page


def test_domains_and_a_multiplier_that_is_found_go_through_yaml_and_into_the_trainer(make_mixed: MakeRecipe) -> None:
    recipe = make_mixed()
    assert parse_recipe(dump_recipe(recipe)) == recipe
    found, *fixed = build_constraints(recipe.constraints)
    assert found.adaptive and found.tilt_target == 1.0 and found.dual == recipe.constraints[0].dual
    assert [(each.adaptive, each.tilt_target) for each in fixed] == [(False, 1.0), (False, 0.8)]


@pytest.mark.parametrize(
    ("domains", "said"),
    [
        (
            {"nwes": {}},
            "domains.nwes: no row and no prompt has this domain; did you mean news? There are: chat, default, news",
        ),
        (
            {"news": {"constraints": {"no_bda": 1}}},
            "domains.news.constraints.no_bda: no constraint is called so; did you mean",
        ),
    ],
)
def test_a_domain_or_constraint_that_is_not_there_is_refused_before_anything_is_spent(
    make_mixed: MakeRecipe, domains: dict[str, Any], said: str
) -> None:
    recipe = make_mixed(domains=domains)
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe)
    assert said in str(caught.value)
    assert not recipe.output_dir.exists()


TEXT = """\
model: {path: embedded}
corpus:
  path: embedded
constraints:
  - oracle: {kind: embedded}
    target: 0.99
    multiplier: dual
domains:
  chat: {loss_weight: 1.0}
output_dir: runs/x
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.99", "1.0", "constraints[0].target must be below 1 with multiplier dual, got 1: no finite λ"),
        ("dual\n", "dual\n    weight: 0\n", "constraints[0].weight must be in [0.01, 100] (dual.lowest, dual.highest)"),
        ("dual\n", "dual\n    dual: {lowest: 5, highest: 3}\n", "dual.lowest (5) must be below highest (3) (r.yaml, line 8)"),
        ("dual\n", "dual\n    dual: {patience: 0}\n", "dual.patience must be at least 1, got 0 (r.yaml, line 8)"),
        ("dual\n", "adaptive\n", "constraints[0].multiplier must be fixed or dual, got 'adaptive' (r.yaml, line 7)"),
        ("1.0", "-1", "domains.chat.loss_weight must be at least 0, got -1 (r.yaml, line 9)"),
        ("loss_weight", "loss_wieght", "domains.chat.loss_wieght is unknown (r.yaml, line 9)"),
    ],
)  # fmt: skip
def test_what_no_multiplier_or_domain_can_be_is_named_with_its_line(old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(TEXT.replace(old, new, 1), "r.yaml")
    assert said in str(caught.value)


def test_the_plan_counts_the_outputs_that_are_measured(make_mixed: MakeRecipe) -> None:
    recipe = make_mixed(guidance={"measure_every": 3, "measure_samples": 10})
    assert measured_outputs(recipe, 10) == 70  # at 3, 6 and 9, and four times as many at the end
    fixed = make_mixed(constraints=RULES[1:], domains={})
    assert measured_outputs(fixed, 10) == 0
    assert check_recipe(recipe).samples == 2 * 8 + measured_outputs(recipe, 4)
