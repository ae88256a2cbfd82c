"""What is held out is not sampled in training, whether evaluation asks about it or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import AutoTokenizer

from adhere.recipe.inputs import read_inputs
from adhere.recipe.schema import Recipe


def test_held_out_prompts_beyond_those_of_the_evaluation_are_not_sampled_either(
    make_recipe: Callable[..., Recipe], tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    held_out = {prompt.text for prompt in read_inputs(make_recipe(), tokenizer, 64).heldout_prompts}
    assert len(held_out) > 1
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*sorted(held_out), "another one"]), encoding="utf-8")
    inputs = read_inputs(make_recipe(prompts={"path": str(file)}, evaluation={"prompts": 1}), tokenizer, 64)
    assert len(inputs.heldout_prompts) == 1
    assert [prompt.text for prompt in inputs.prompts] == ["another one"]
