"""The optional package that some baselines need."""

from __future__ import annotations

import importlib.util

from adhere.errors import RecipeError

TRL_METHODS = ("rloo", "grpo", "dpo")


def require_trl(method: str) -> None:
    """Raises RecipeError when the method needs TRL and it is not installed."""
    if method in TRL_METHODS and importlib.util.find_spec("trl") is None:
        raise RecipeError(f"method {method} is trained by TRL, which is not installed: pip install 'adhere[baselines]'")
