"""The recipe that a speed benchmark runs: a file's or the demo's, with the benchmark's own settings laid over it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adhere.recipe.schema import Recipe


def base_recipe(path: Path | None, folder: Path, settings: Sequence[str]) -> Recipe:
    """The recipe at `path`, the demo's without one, to be run in `folder`."""
    from adhere.recipe.load import load_recipe, parse_recipe

    laid_over = [*settings, f"output_dir={json.dumps(str(folder))}"]
    if path is not None:
        return load_recipe(path, laid_over)
    text = files("adhere.recipe").joinpath("demo.yaml").read_text(encoding="utf-8")
    return parse_recipe(text, "demo.yaml", laid_over)
