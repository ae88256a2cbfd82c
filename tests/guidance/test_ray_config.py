"""The section of a recipe that asks for a Ray cluster."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from adhere.errors import RecipeError
from adhere.guidance import ray_config
from adhere.guidance.config import ExecutionConfig
from adhere.guidance.ray_config import RayConfig, require_ray


def test_a_section_asks_for_a_cluster() -> None:
    section = ExecutionConfig.model_validate({"executor": "ray", "ray": {"address": "auto", "samplers": 4}})
    assert section.where("sequential") == "ray" and section.ray == RayConfig(address="auto", samplers=4)


@pytest.mark.parametrize("wrong", [{"samplers": 0}, {"patience": 0}, {"max_lost": -1}, {"sampler_gpu": 1}])
def test_what_cannot_be_asked_for_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RayConfig.model_validate(wrong)


def test_ray_that_is_not_installed_is_said_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_config, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'adhere\[ray\]'; or use worker or in-process"):
        require_ray()
