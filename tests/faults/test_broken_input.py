"""Broken recipes, corpora, command lines and answers: each ends in one clear error, before anything is spent.

Clear is: our own error (exit code 2 on the command line), in words of ours, without a traceback, with nothing in it that
steers a terminal, not longer than a screen. Before anything is spent: no run folder was made. Each test says how many cases it
had (`record_property`); `benchmarks/broken_input.py` adds them up.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from broken_corpora import broken_corpora
from broken_recipes import ANYTHING, BROKEN_TEXTS, MINIMAL, WRONG, every_field, every_section, laid
from broken_words import BROKEN_WORDS, lay_out
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adhere.cli.main import app
from adhere.errors import AdhereError, RecipeError
from adhere.recipe.load import load_recipe, parse_recipe

Record = Callable[[str, object], None]

NOT_OURS = re.compile(r"Traceback|[Vv]alue error|pydantic|input_value|Input should|object at 0x")
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SECONDS = 20.0
"""Of the processor, the first import of torch among them; a bomb would take for ever."""


def unclear(message: str) -> str:
    """What is wrong with a message; empty when nothing is."""
    found = NOT_OURS.search(message)
    if found:
        return f"says {found[0]!r}: {message[:300]}"
    if STEERS.search(message):
        return f"steers the terminal: {message[:300]!r}"
    return "" if 0 < len(message.strip()) < 8000 else f"is {len(message)} characters long"


def typed(words: list[str]) -> str:
    """What is wrong with how the command ends; empty when it ends with 2 and one clear message."""
    start = time.process_time()
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"
    if result.exit_code != 2:
        return f"ended with {result.exit_code}: {result.output[-300:]}"
    if time.process_time() - start > SECONDS:
        return f"took {time.process_time() - start:.1f} s"
    return unclear(result.stderr)


def refused(call: Callable[[], object]) -> str:
    """What is wrong with how a call is refused; empty when an error of ours with a clear message comes out."""
    try:
        call()
    except AdhereError as error:
        return unclear(str(error))
    except Exception as error:
        return f"raised {error!r}"
    return "was taken"


def wrong(told: dict[str, str]) -> dict[str, str]:
    return {what: said for what, said in told.items() if said}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somewhere else, without a network, and with nothing that another test left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "cache"))


def test_a_wrong_value_of_any_field_is_refused_by_the_fields_name(record_property: Record) -> None:
    """Fields are found in the schema; of the wrong values, each must take the type or be refused."""
    told: dict[str, str] = {}
    count = 0
    for number, (recipe, path) in enumerate(every_field()):
        refusals = 0
        for value in (WRONG[0], WRONG[1 + number % (len(WRONG) - 1)]):
            text = yaml.dump(laid(recipe, path, value), Dumper=yaml.CSafeDumper)
            try:
                parse_recipe(text)
            except RecipeError as error:
                named = str(path[-1]) in str(error) or str(path[-2:][0]) in str(error)
                told[f"{path} = {str(value)[:40]}"] = unclear(str(error)) or (
                    "" if named else f"does not name it: {error}"
                )
                refusals += 1
        count += refusals
        assert refusals or path in ANYTHING, path
    assert wrong(told) == {}
    assert count >= 400
    record_property("recipes with a wrong value, in every field of the schema", count)


def test_an_unknown_key_of_any_section_is_refused_with_what_is_allowed(record_property: Record) -> None:
    told: dict[str, str] = {}
    for number, (recipe, path) in enumerate(every_section()):
        text = json.dumps(laid(recipe, (*path, "unheard_of"), 1))
        with pytest.raises(RecipeError) as caught:
            parse_recipe(text)
        told[f"{number} {path}"] = unclear(str(caught.value))
        assert "unheard_of is unknown" in str(caught.value)
    assert wrong(told) == {}
    assert len(told) >= 40
    record_property("recipes with an unknown key, in every section of the schema", len(told))


def test_recipes_that_cannot_be_read(tmp_path: Path, record_property: Record) -> None:
    told = {}
    for what, content in BROKEN_TEXTS.items():
        path = tmp_path / "broken.yaml"
        path.write_bytes(content)
        told[what] = typed(["check", str(path)])
    assert wrong(told) == {}
    assert len(told) >= 50
    record_property("recipes that cannot be read", len(told))


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_bytes_of_any_kind_are_refused_as_a_recipe(content: bytes) -> None:
    path = Path("any.yaml")
    path.write_bytes(content)
    assert refused(lambda: load_recipe(path)) == ""


@given(st.data())
def test_a_recipe_with_some_characters_changed_is_taken_or_refused(data: st.DataObject) -> None:
    text = yaml.dump(MINIMAL)
    place = data.draw(st.integers(0, len(text)))
    changed = text[:place] + data.draw(st.text(max_size=4)) + text[place + data.draw(st.integers(0, 8)) :]
    try:
        parse_recipe(changed)
    except RecipeError as error:
        assert unclear(str(error).encode("unicode_escape").decode()) == ""


def test_corpora_that_cannot_be_learned_from(tiny_policy_folder: Path, tmp_path: Path, record_property: Record) -> None:
    """Each is trained on, and no run folder comes of it."""
    recipe = {
        "method": "sft",
        "model": {"path": str(tiny_policy_folder)},
        "corpus": {"path": "c.jsonl", "max_length": 32},
        "constraints": [{"oracle": {"kind": "json"}}],
        "sampling": {"max_new_tokens": 8},
        "training": {"max_steps": 1, "bf16": False},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    told = {}
    for number, (what, (suffix, content)) in enumerate(broken_corpora().items()):
        corpus = tmp_path / f"corpus{number}{suffix}"
        corpus.write_bytes(content)
        told[what] = typed(["train", str(tmp_path / "r.yaml"), "--set", f"corpus.path={corpus}"])
        corpus.unlink()
        if (tmp_path / "run").exists():
            told[what] += "; a run folder was made"
    assert wrong(told) == {}
    assert len(told) >= 100
    record_property("corpora", len(told))


def test_command_lines_that_cannot_be_carried_out(tmp_path: Path, record_property: Record) -> None:
    lay_out(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert wrong({f"{number}: {str(words)[:100]}": typed(words) for number, words in enumerate(BROKEN_WORDS)}) == {}
    assert len(BROKEN_WORDS) >= 100
    after = {path.name for path in tmp_path.iterdir() if not path.name.startswith("cache")}
    assert sorted(after) == before
    record_property("command lines", len(BROKEN_WORDS))


ANSWERS: dict[str, bytes] = {
    "nothing": b"", "white space": b"  \n", "prose": b"I cannot do that", "HTML": b"<html>502</html>", "cut off": b'{"s": 0.',
    "NaN": b'{"s": NaN}', "infinity": b'{"s": 1e999}', "minus infinity": b'{"s": -Infinity}', "above 1": b'{"s": 1.01}',
    "below 0": b'{"s": -0.01}', "a huge integer": b'{"s": ' + b"9" * 5000 + b"}", "a string": b'{"s": "0.5"}',
    "true": b'{"s": true}', "null": b'{"s": null}', "a list": b'{"s": [0.5]}', "an object": b'{"s": {"s": 0.5}}',
    "another key": b'{"S": 0.5}', "no object": b"0.5", "a list of objects": b'[{"s": 0.5}]', "not UTF-8": b'{"s": "\xff"}',
    "UTF-16": '{"s": 0.5}'.encode("utf-16-le"), "two answers": b'{"s": 0.5}{"s": 0.5}', "a comma too many": b'{"s": 0.5,}',
    "deep nesting": b'{"s":' * 3000, "a comment": b'{"s": 0.5} // sure', "single quotes": b"{'s': 0.5}",
    "null bytes": b"\x00" * 100, "a terminal escape": b"\x1b[2J", "half a character": b'{"s": "\\ud800"}',
    "five megabytes of spaces": b" " * 5_000_000,
}  # fmt: skip


def test_answers_that_are_no_verdict(
    local_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """A broken answer is not the user's mistake: the rows are written without a score, it is said why, and the code is 1."""
    monkeypatch.setattr("adhere.oracles.retries.FIRST_WAIT", 0.001)
    (tmp_path / "s.jsonl").write_text('{"output": "x"}\n', encoding="utf-8")
    oracle = (
        "{kind: endpoint, url: '%s', request: '{output}', score_path: s, direction: violation, limits: {attempts: 1}}"
    )
    told = {}
    for what, answer in ANSWERS.items():
        local_service.answer = lambda asked, answer=answer: local_service.reply(body=answer)
        result = CliRunner().invoke(
            app, ["label", "s.jsonl", "--oracle", oracle % local_service.url, "--out", "o.jsonl"]
        )
        row = json.loads((tmp_path / "o.jsonl").read_text(encoding="utf-8"))
        good = result.exit_code == 1 and row["score"] is None and "Why verdicts were missing" in result.stderr
        told[what] = (
            unclear(result.stderr) if good else f"{result.exit_code}, {row}, {result.output} {result.exception!r}"
        )
    assert wrong(told) == {}
    assert len(told) >= 30
    record_property("answers of a service", len(told))
