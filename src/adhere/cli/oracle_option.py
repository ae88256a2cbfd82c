"""An oracle as an option of the command line: its kind alone, or its section of a recipe as YAML or JSON."""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from adhere.errors import RecipeError
from adhere.oracles.config import OracleConfig
from adhere.recipe.complaints import recipe_error
from adhere.recipe.yaml_source import YamlSource


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    oracle: OracleConfig


def read_oracle(text: str, option: str) -> OracleConfig:
    """The oracle that an option describes.

    Args:
        text: `embedded`, or `{kind: regex, pattern: '[0-9]{16}'}`.
        option: what messages call it: `--oracle`.

    Raises:
        RecipeError: not YAML, no such kind, or a setting that is missing, unknown or out of range.
    """
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{option} {text!r} is no YAML: {getattr(error, 'problem', None) or error}") from error
    source = YamlSource(option, {"oracle": {"kind": given} if isinstance(given, str) else given})
    try:
        return _Given.model_validate(source.data).oracle
    except ValidationError as error:
        raise recipe_error(error, source, _Given) from error
