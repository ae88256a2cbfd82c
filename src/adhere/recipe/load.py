"""A recipe from YAML, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from adhere.recipe.complaints import recipe_error
from adhere.recipe.schema import Recipe
from adhere.recipe.yaml_source import YamlSource, override, parse_yaml, read_yaml


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: the YAML file.
        overrides: settings laid over it, as `training.learning_rate=2e-5` or `constraints.0.weight=2`.

    Raises:
        RecipeError: the file cannot be read, or something in it is unknown, missing or out of range. The message names
            every fault with its path, the given value, what is allowed, file and line.
    """
    return _validated(read_yaml(path), overrides)


def parse_recipe(text: str, name: str = "the recipe", overrides: Sequence[str] = ()) -> Recipe:
    """`load_recipe` of text; `name` is what messages call it."""
    return _validated(parse_yaml(text, name), overrides)


def _validated(source: YamlSource, overrides: Sequence[str]) -> Recipe:
    override(source, overrides)
    try:
        return Recipe.model_validate(source.data)
    except ValidationError as error:
        raise recipe_error(error, source, Recipe) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads the same recipe back."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True, width=110
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, with which editors complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
