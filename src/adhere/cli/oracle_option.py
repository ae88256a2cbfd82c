"""An oracle as an option of the command line: its kind alone, or its section of a recipe as YAML or JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from adhere.oracles.config import OracleConfig
from adhere.recipe.complaints import recipe_error
from adhere.recipe.yaml_source import YamlSource, read_value


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
    given = read_value(text, f"{option} {text[:60]!r}")
    source = YamlSource(option, {"oracle": {"kind": given} if isinstance(given, str) else given})
    try:
        return _Given.model_validate(source.data).oracle
    except ValidationError as error:
        raise recipe_error(error, source, _Given) from error
