"""A method that needs an optional package says which, before anything is spent."""

from __future__ import annotations

import importlib.util

import pytest

from adhere.baselines.extra import TRL_METHODS, require_trl
from adhere.errors import RecipeError


@pytest.mark.parametrize("method", TRL_METHODS)
def test_without_trl_its_methods_say_how_to_get_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=rf"method {method} .* pip install 'adhere\[baselines\]'"):
        require_trl(method)


@pytest.mark.parametrize("method", ["constrained", "sft", "filtered-sft", "guided-decoding"])
def test_the_other_methods_need_no_trl(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_trl(method)
