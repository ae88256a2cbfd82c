"""A run whose oracle is a service: checked before, paused when it fails, resumed when it is back, nothing paid twice."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from adhere.cli.main import app
from adhere.errors import OracleError, RunFolderError, VerdictsMissingError
from adhere.oracles import build_oracle, retries
from adhere.recipe.check import check_recipe
from adhere.recipe.load import dump_recipe
from adhere.recipe.schema import Recipe
from adhere.recipe.train import train_recipe

MakeRecipe = Callable[..., Recipe]
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def recipe(make_recipe: MakeRecipe, local_service: Any) -> Callable[..., Recipe]:
    """Texts with an `e` violate, says a service."""

    def make(limits: dict[str, Any] | None = None, price: dict[str, Any] | None = None, **sections: Any) -> Recipe:
        oracle = {
            "kind": "endpoint", "url": local_service.url, "request": {"text": "{output}"}, "score_path": "score",
            "direction": "satisfied", "key_variable": "JUDGE_KEY", "name": "remote",
            "limits": {"attempts": 1, **(limits or {})}, "price": price or {},
        }  # fmt: skip
        return make_recipe(constraints=[{"oracle": oracle}], evaluation={"judges": []}, **sections)

    return make


def good(asked: Any) -> dict[str, float]:
    return {"score": float("e" not in asked.body["text"])}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def _same(one: Path, other: Path) -> bool:
    a, b = _weights(one), _weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_oracle_that_does_not_answer_is_found_out_before_anything_is_spent(
    recipe: Callable[..., Recipe], local_service: Any
) -> None:
    local_service.answer = lambda asked: local_service.reply(status=500)
    with pytest.raises(OracleError, match=r"'remote' gave no verdict on any of \d+ corpus rows .* 500 Internal"):
        check_recipe(recipe())
    local_service.answer = lambda asked: local_service.reply(status=401, body={"error": f"bad key {SECRET}"})
    with pytest.raises(
        OracleError, match=r"refuses: 401 Unauthorized\. Check the address .*the key in JUDGE_KEY"
    ) as caught:
        check_recipe(recipe())
    assert SECRET not in str(caught.value)
    assert not Path(recipe().output_dir).exists()


def test_the_plan_says_what_will_be_asked_and_what_it_will_cost(
    recipe: Callable[..., Recipe], local_service: Any
) -> None:
    local_service.answer = good
    plan = check_recipe(recipe(price={"per_call": 0.5}))
    (told,) = [warning for warning in plan.warnings if "verdicts" in warning]
    assert f"about {plan.rows + plan.samples:,} verdicts in training" in told
    assert f"At the price stated, about {0.5 * (plan.rows + plan.samples):,.2f}" in told


def test_a_second_run_asks_only_about_its_own_outputs(
    recipe: Callable[..., Recipe], local_service: Any, tmp_path: Path
) -> None:
    local_service.answer = good
    train_recipe(recipe())
    texts = [asked.body["text"] for asked in local_service.asked]
    assert len(texts) == len(set(texts))  # checking and training share their verdicts
    train_recipe(recipe(output_dir=str(tmp_path / "again")))
    assert len(local_service.asked) == len(texts)
    assert _same(recipe().output_dir, tmp_path / "again")
    costs = json.loads((tmp_path / "again" / "costs.json").read_text())
    assert costs["calls_saved"] > 0
    assert costs["calls_made"] == 0


def test_a_service_that_dies_pauses_the_run_and_the_resumed_one_ends_with_the_same_weights(
    recipe: Callable[..., Recipe], local_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_service.answer = good
    whole = train_recipe(recipe(output_dir=str(tmp_path / "whole")))
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "other-cache"))
    answered: list[str] = []

    def until(total: int) -> Callable[[Any], Any]:
        def answer(asked: Any) -> Any:
            if len(answered) >= total:
                return local_service.reply(status=503)
            answered.append(asked.body["text"])
            return good(asked)

        return answer

    rows = 18
    for total, iteration in ((rows + 3, 0), (rows + 11, 1)):
        local_service.answer = until(total)
        with pytest.raises(VerdictsMissingError, match=f"outputs of iteration {iteration} .*503 Service Unavailable"):
            train_recipe(recipe(), resume=iteration > 0)
        assert bool(list(recipe().output_dir.glob("checkpoint-*"))) == (iteration > 0)
    local_service.answer = until(1000)
    train_recipe(recipe(), resume=True)
    assert _same(recipe().output_dir, whole)
    assert len(answered) == len(set(answered))  # nothing was paid twice
    assert json.loads((recipe().output_dir / "costs.json").read_text())["no_verdict"] == 0


def test_a_paused_run_may_ask_in_another_way_but_not_another_question(
    recipe: Callable[..., Recipe], local_service: Any
) -> None:
    tried = 0

    def dying(asked: Any) -> Any:
        nonlocal tried
        tried += 1
        return good(asked) if tried < 22 else local_service.reply(status=503)

    local_service.answer = dying
    with pytest.raises(VerdictsMissingError, match=r"guidance\.max_without_verdict is 10%") as caught:
        train_recipe(recipe())
    assert "--resume" in str(caught.value)
    local_service.answer = good
    changed = recipe(limits={"concurrency": 2, "attempts": 3}, price={"per_call": 1})
    other = recipe()
    other_rule = other.model_copy(
        update={
            "constraints": (
                other.constraints[0].model_copy(
                    update={"oracle": other.constraints[0].oracle.model_copy(update={"score_path": "other"})}
                ),
            )
        }
    )
    with pytest.raises(RunFolderError, match="score_path"):
        train_recipe(other_rule, resume=True)
    loose = changed.model_copy(update={"guidance": changed.guidance.model_copy(update={"max_without_verdict": 0.5})})
    assert (train_recipe(loose, resume=True) / "model").is_dir()


def test_the_command_says_that_it_paused_and_how_to_go_on(
    recipe: Callable[..., Recipe], local_service: Any, tmp_path: Path
) -> None:
    tried = 0

    def dying(asked: Any) -> Any:
        nonlocal tried
        tried += 1
        return good(asked) if tried < 22 else local_service.reply(status=503)

    local_service.answer = dying
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe()), encoding="utf-8")
    paused = CliRunner().invoke(app, ["train", str(file)])
    assert paused.exit_code == 2
    assert "paused:" in paused.output
    assert "--resume" in paused.output
    assert "Traceback" not in paused.output


def test_the_cache_can_be_looked_at_and_cleared(recipe: Callable[..., Recipe], local_service: Any) -> None:
    local_service.answer = good
    check_recipe(recipe())
    wide = {"COLUMNS": "200"}
    told = CliRunner().invoke(app, ["cache", "info"], env=wide).output
    count = len(local_service.asked)
    assert f"verdicts  {count}" in told
    assert "cache/verdicts" in told
    assert "Aborted" in CliRunner().invoke(app, ["cache", "clear"], input="n\n", env=wide).output
    assert f"Forgotten: {count} verdicts." in CliRunner().invoke(app, ["cache", "clear", "--yes"], env=wide).output
    assert "verdicts  0" in CliRunner().invoke(app, ["cache", "info"], env=wide).output


def test_the_key_is_nowhere(
    recipe: Callable[..., Recipe], local_service: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the run folder, the cache, a log, an error, a message on the screen, a pickle or what is printed of an oracle."""
    caplog.set_level(logging.DEBUG)
    echo = {"error": f"invalid header Authorization: Bearer {SECRET}"}
    local_service.answer = lambda asked: (
        local_service.reply(status=(401, 400, 500)[asked.number % 3], body=echo)
        if asked.number % 7 == 3
        else good(asked)
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe(limits={"attempts": 4})), encoding="utf-8")
    trained = CliRunner().invoke(app, ["train", str(file)])
    assert trained.exit_code == 0, trained.output
    assert local_service.asked[0].headers["Authorization"] == f"Bearer {SECRET}"
    local_service.answer = lambda asked: local_service.reply(status=401, body=echo)
    CliRunner().invoke(app, ["cache", "clear", "--yes"])
    refused = CliRunner().invoke(app, ["check", str(file), "--set", f"output_dir={tmp_path / 'new'}"])
    assert refused.exit_code == 2
    oracle = build_oracle(recipe().constraints[0].oracle)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = "".join([trained.output, refused.output, caplog.text, repr(vars(oracle)), repr(vars(oracle.parts[0]))])
    assert "JUDGE_KEY" in refused.output
    for place in (written, said.encode(), pickle.dumps(oracle)):
        assert SECRET.encode() not in place
        assert SECRET[:12].encode() not in place
