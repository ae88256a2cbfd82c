"""`ConstrainedConfig`: what may be asked for, and what is refused before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from adhere.errors import RecipeError
from adhere.guidance.config import FitConfig, RefreshConfig
from adhere.models.nado_config import NadoConfig
from adhere.sampling.sampler import SamplingConfig
from adhere.sampling.sampler_config import SamplerConfig
from adhere.training.config import ConstrainedConfig
from adhere.training.method_config import Anchor, MethodConfig, Positions, ScheduleName, ViolatingRows, iterations_in

MakeConfig = Callable[..., ConstrainedConfig]


@pytest.mark.parametrize(("steps", "iterations"), [(1, 1), (75, 1), (300, 1), (449, 1), (451, 2), (600, 2), (3000, 10)])
def test_a_run_that_leaves_them_open_has_an_iteration_for_every_300_steps(steps: int, iterations: int) -> None:
    assert iterations_in(steps) == iterations and iterations_in(steps, 7) == 7


def test_defaults_are_those_of_the_recipe(tmp_path: Path) -> None:
    config = ConstrainedConfig(output_dir=str(tmp_path), use_cpu=True)
    for name, field in MethodConfig.model_fields.items():
        assert getattr(config, name) == field.default
    assert (config.sampling, config.refresh) == (SamplingConfig(), RefreshConfig())
    assert (config.nado, config.nado_fit) == (NadoConfig(), FitConfig())


@pytest.mark.parametrize(
    ("name", "choices"),
    [("anchor", Anchor), ("positions", Positions), ("violating_rows", ViolatingRows), ("schedule", ScheduleName)],
)
def test_a_choice_is_one_of_those_there_are(make_config: MakeConfig, name: str, choices: Any) -> None:
    for choice in get_args(choices):
        assert getattr(make_config(**{name: choice}), name) == choice
    with pytest.raises(RecipeError, match=rf"{name} must be one of {', '.join(get_args(choices))}; got 'other'"):
        make_config(**{name: "other"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"prefix_weight_clip": 0.5}, r"prefix_weight_clip must be at least 1, got 0\.5"),
        ({"save_total_limit": 1}, "save_total_limit must be at least 2, got 1: with fewer, a crash"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(make_config: MakeConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_config(**settings)


def test_an_unknown_key_of_a_section_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ValidationError, match=r"epoch\n.*Extra inputs are not permitted"):
        make_config(nado_fit={"epoch": 3})


def test_columns_that_only_the_collator_reads_are_kept(make_config: MakeConfig) -> None:
    assert make_config(remove_unused_columns=True).remove_unused_columns is False


def test_sections_may_be_written_as_dictionaries_and_go_into_checkpoints_as_such(make_config: MakeConfig) -> None:
    config = make_config(sampling={"top_p": 0.9}, nado_fit=FitConfig(epochs=7))
    assert config.sampling == SamplerConfig(top_p=0.9)
    described = json.loads(config.to_json_string())  # type: ignore[no-untyped-call]
    assert described["sampling"]["top_p"] == 0.9
    assert described["nado_fit"]["epochs"] == 7
    assert described["anchor"] == config.anchor
