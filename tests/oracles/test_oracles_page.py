"""docs/oracles.md: every section it shows can be written in a recipe, and it knows every kind and preset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import TypeAdapter

from adhere.oracles import OracleConfig
from adhere.oracles.presets import CLASSIFIERS, GUARDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "oracles.md").read_text(encoding="utf-8")
SECTIONS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section["kind"])
def test_every_section_is_one_that_a_recipe_may_have(section: dict[str, Any]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(OracleConfig)
    assert adapter.validate_python(section).kind == section["kind"]


def test_every_kind_and_every_preset_is_there() -> None:
    union, _ = get_args(OracleConfig)
    kinds = [config.model_fields["kind"].default for config in get_args(union)]
    assert [name for name in (*kinds, *CLASSIFIERS, *GUARDS) if f"`{name}`" not in PAGE] == []
    assert all(each.model in PAGE for each in (*CLASSIFIERS.values(), *GUARDS.values()))
