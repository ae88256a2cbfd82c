from __future__ import annotations

import pytest

from adhere.cli.oracle_option import read_oracle
from adhere.errors import RecipeError
from adhere.oracles.config import EmbeddedConfig, JsonConfig, NotConfig, RegexConfig


def test_an_oracle_is_its_kind_alone() -> None:
    assert read_oracle("embedded", "--oracle") == EmbeddedConfig()


@pytest.mark.parametrize(
    "text",
    ["{kind: regex, pattern: 'a[0-9]', mode: required}", 'kind: regex\npattern: "a[0-9]"\nmode: required',
     '{"kind": "regex", "pattern": "a[0-9]", "mode": "required"}'],
)  # fmt: skip
def test_an_oracle_is_its_section_of_a_recipe(text: str) -> None:
    assert read_oracle(text, "--oracle") == RegexConfig(pattern="a[0-9]", mode="required")


def test_oracles_nest() -> None:
    assert read_oracle("{kind: not, oracle: {kind: json}}", "--judge") == NotConfig(oracle=JsonConfig())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jigsawe", r"kind must be one of .*jigsaw.*got 'jigsawe' \(--oracle\); did you mean jigsaw\?"),
        ("{kind: regex}", r"oracle\.pattern is missing \(--oracle\)"),
        ("{kind: json, key: a}", r"oracle\.key is unknown \(--oracle\)"),
        ("{kind: embedded, soft: perhaps}", r"oracle\.soft must be true or false, got 'perhaps' \(--oracle\)"),
        ("{kind: regex", r"--oracle '\{kind: regex', line 1, column 13: not YAML"),
        ("[embedded]", r"--oracle"),
        ("7", r"--oracle"),
        ("", r"--oracle"),
    ],
)
def test_what_is_no_oracle_is_named(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_oracle(text, "--oracle")
