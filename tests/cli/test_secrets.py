"""Keys stay in the environment, and files in the folders that a run was given: looked for in every byte that was written."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from adhere.cli.main import app
from adhere.errors import OracleError
from adhere.oracles import EndpointOracle, LimitsConfig, judge

KEY = "sk-canary-7f3a9c51d2e8"
OTHER = "hf_canary_b06d77aa19f4"
"""In the environment too, as the keys of other programs are."""


def _holding(text: bytes) -> list[str]:
    """Which of the secrets a text holds, in whatever form."""
    forms = {
        secret: [secret.encode(), base64.b64encode(secret.encode()), secret[4:].encode()] for secret in (KEY, OTHER)
    }
    return [secret for secret, looks in forms.items() if any(look in text for look in looks)]


def _files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN_OF_ANOTHER", OTHER)
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adhere.oracles.retries.FIRST_WAIT", 0.001)


def _recipe(tiny_recipe: Path, folder: Path, url: str) -> Path:
    recipe: dict[str, Any] = yaml.safe_load(tiny_recipe.read_text(encoding="utf-8"))
    oracle = {"kind": "endpoint", "name": "service", "url": f"{url}/score", "request": {"text": "{output}"},
              "score_path": "risk", "direction": "violation", "key_variable": "OUR_KEY",
              "limits": {"attempts": 2, "concurrency": 4}, "price": {"per_call": 0.01}}  # fmt: skip
    recipe |= {"constraints": [{"oracle": oracle}], "output_dir": str(folder / "run")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


def test_no_key_is_written_anywhere_though_the_service_says_it_back(
    tiny_recipe: Path, tmp_path: Path, local_service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Through good answers, failures that quote the key, a pause, a resumption, an evaluation and a report."""
    caplog.set_level("DEBUG")
    failing = False

    def answer(asked: Any) -> Any:
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        quoting = {"error": f"quota of {KEY} is used up", "headers": asked.headers}
        if failing or asked.number % 9 == 8:
            return local_service.reply(status=500, body=quoting, headers={"X-Key": KEY})
        return {"risk": float("bad" in asked.body["text"]), "you_sent": asked.headers}

    local_service.answer = answer
    recipe = _recipe(tiny_recipe, tmp_path, local_service.url)
    run, said = tmp_path / "run", ""
    settings = ["--set", "guidance.max_without_verdict=0.5"]
    for words in (
        ["check", str(recipe)],
        ["train", str(recipe), *settings],
        ["evaluate", str(run)],
        ["report", str(run)],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        said += result.output
    failing = True
    words = ["train", str(recipe), "--output", str(tmp_path / "other"), "--set", "seed=1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "500" in result.output
    assert _holding((said + result.output + caplog.text).encode()) == []
    written = _files(tmp_path / "run", tmp_path / "other", tmp_path / "cache")
    assert len(written) > 20
    assert {str(path): found for path in written if (found := _holding(path.read_bytes()))} == {}


@pytest.mark.parametrize("status", [401, 403, 404, 302])
@pytest.mark.parametrize("before", [0, 250, 290, 299])
def test_a_refusal_that_quotes_the_key_is_not_repeated(local_service: Any, status: int, before: int) -> None:
    """Not even where only the first part of it would be shown."""
    local_service.answer = lambda asked: local_service.reply(
        status=status, body={"error": "x" * before + f" bad key {KEY}"}
    )
    oracle = EndpointOracle(local_service.url, "{output}", "s", "satisfied", key_variable="OUR_KEY")
    with pytest.raises(OracleError) as caught:
        judge(oracle, [""], ["text"])
    oracle.close()
    said = "".join(traceback.format_exception(caught.value))
    assert "sk-can" not in said
    assert _holding(pickle.dumps(oracle)) == []
    assert _holding(f"{oracle!r} {vars(oracle)} {vars(oracle.service)}".encode()) == []


def test_secrets_in_an_address_are_not_said_where_a_program_puts_them_there(local_service: Any) -> None:
    """Recipes refuse them; whoever builds an oracle himself may have no other way."""
    local_service.answer = lambda asked: local_service.reply(status=500, body=KEY)
    port = local_service.url.rpartition(":")[2]
    url = f"http://user:{KEY}@127.0.0.1:{port}/v1?key={OTHER}"
    oracle = EndpointOracle(url, "{output}", "s", "satisfied", limits=LimitsConfig(attempts=1))
    assert judge(oracle, [""], ["text"]) == [None]
    assert _holding(f"{oracle.name} {oracle.version} {oracle.trouble()} {oracle.service.host}".encode()) == []
    local_service.answer = lambda asked: local_service.reply(status=401, body=KEY)
    with pytest.raises(OracleError) as caught:
        judge(oracle, [""], ["text"])
    assert _holding("".join(traceback.format_exception(caught.value)).encode()) == []
    oracle.close()


@pytest.mark.parametrize(
    "oracle",
    [
        {"kind": "moderation", "key_variable": KEY},
        {"kind": "moderation", "url": f"https://user:{KEY}@example.org/"},
        {"kind": "moderation", "url": f"https://example.org/?key={KEY}"},
        {"kind": "judge", "model": "m", "rubric": "r", "key_variable": f"Bearer {KEY}"},
        {"kind": "endpoint", "url": "https://example.org", "request": "{output}", "score_path": "a",
         "direction": "violation", "headers": {"Authorization": KEY}},
        {"kind": "endpoint", "url": "https://example.org", "request": "{output}", "score_path": "a",
         "direction": "violation", "key_prefix": f"Bearer {KEY}"},
    ],
)  # fmt: skip
def test_a_recipe_that_holds_a_key_is_refused_without_repeating_it(oracle: dict[str, Any], tmp_path: Path) -> None:
    recipe = {"model": {"path": "m"}, "corpus": {"path": "c"}, "constraints": [{"oracle": oracle}], "output_dir": "x"}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    for words in (["check", str(tmp_path / "r.yaml")], ["label", "s", "--oracle", json.dumps(oracle), "--out", "o"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert _holding(result.output.encode()) == []


EVERYTHING = """
import sys
from adhere.cli.main import app
recipe, run, out = sys.argv[1:]
for words in (["check", recipe], ["train", recipe], ["evaluate", run, "--model", "before"],
              ["evaluate", run], ["report", run], ["doctor", run],
              ["sample", run, "--prompt", "a cat", "--max-new-tokens", "4", "--out", f"{out}/s.jsonl"],
              ["label", f"{out}/s.jsonl", "--oracle", "json", "--out", f"{out}/l.jsonl"],
              ["compare", run, "--out", f"{out}/c.html"]):
    try:
        app(words)
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


def test_nothing_is_written_outside_the_folders_that_were_named(tiny_recipe: Path, tmp_path: Path) -> None:
    """A home, a working folder and a place for temporary files of its own: they are as empty afterwards as before."""
    names = ("home", "here", "temporary", "cache", "out")
    home, here, temporary, cache, out = folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "ADHERE"))}
    environment = {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "ADHERE_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
    }
    recipe: dict[str, Any] = yaml.safe_load(tiny_recipe.read_text(encoding="utf-8"))
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "run")}), encoding="utf-8"
    )
    beside = sorted(tiny_recipe.parent.rglob("*"))
    words = [sys.executable, "-c", EVERYTHING, str(tmp_path / "recipe.yaml"), str(tmp_path / "run"), str(out)]
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    left = [path.relative_to(tmp_path).as_posix() for folder in (home, here, temporary) for path in folder.rglob("*")]
    assert left == []
    assert sorted(path.name for path in out.iterdir()) == ["c.html", "l.jsonl", "s.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "recipe.yaml", "run"])
    assert sorted(tiny_recipe.parent.rglob("*")) == beside
