"""`adhere schema`"""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of recipes, for an editor to complete them."""
    from adhere.recipe.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
