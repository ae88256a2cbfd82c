"""A fault of earlier code (method.md §7): the student was evaluated on prompts it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from adhere.errors import CorpusError
from adhere.recipe.inputs import Inputs, read_inputs
from adhere.recipe.schema import Recipe

LETTERS = "abcdefghij"


def _read(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]], **sections: Any) -> Inputs:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe.model_validate(
        {
            "model": {"path": "not looked at"},
            "corpus": {"path": str(corpus), "max_length": 24, "holdout": 0.4, **sections.pop("corpus", {})},
            "constraints": [{"oracle": {"kind": "words", "words": ["bad"]}}],
            "sampling": {"max_new_tokens": 4},
            "output_dir": str(tmp_path / "run"),
            **sections,
        }
    )
    return read_inputs(recipe, tokenizer, context_length=64)


def _prompts(inputs: Inputs) -> tuple[set[str], set[str]]:
    return {prompt.text for prompt in inputs.prompts}, {prompt.text for prompt in inputs.heldout_prompts}


def test_no_prompt_is_both_sampled_in_training_and_held_out(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = [{"prompt": f"say {letter}", "completion": f" {end}"} for letter in LETTERS for end in ("ok", "bad")]
    inputs = _read(tmp_path, tiny_tokenizer, rows)
    sampled, held_out = _prompts(inputs)
    assert sampled and held_out and not sampled & held_out
    assert not held_out & set(inputs.rows["prompt"])
    assert sampled == set(inputs.rows["prompt"])


def test_prompts_that_are_the_same_once_they_are_cut_are_not_sampled_in_training(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"{start} and more to say {letter}", "completion": f" {end}"}
        for letter in LETTERS
        for start in "kl"
        for end in ("ok", "bad")
    ]
    inputs = _read(tmp_path, tiny_tokenizer, rows, corpus={"max_prompt_length": 5})
    sampled, held_out = _prompts(inputs)
    assert held_out <= {f"say {letter}" for letter in LETTERS}
    assert sampled and not sampled & held_out
    assert set(inputs.rows["prompt"]) & held_out  # they were the same once cut


@pytest.mark.parametrize("other", ["say z", None])
def test_prompts_of_a_file_lose_those_that_are_held_out(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, other: str | None
) -> None:
    rows = [{"prompt": f"say {letter}", "completion": f" {end}"} for letter in LETTERS for end in ("ok", "bad")]
    _, held_out = _prompts(_read(tmp_path, tiny_tokenizer, rows))
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*(text.upper() for text in sorted(held_out)), *([other] if other else [])]))
    if other is None:
        with pytest.raises(CorpusError, match="every prompt is also held out"):
            _read(tmp_path, tiny_tokenizer, rows, prompts={"path": str(file)})
        return
    inputs = _read(tmp_path, tiny_tokenizer, rows, prompts={"path": str(file)})
    assert [prompt.text for prompt in inputs.prompts] == [other]
    assert any("are held out, and left out here" in warning for warning in inputs.warnings)


def test_one_prompt_for_all_rows_is_sampled_in_training_for_lack_of_another(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = [{"prompt": "say", "completion": f" {letter}"} for letter in LETTERS]
    assert _prompts(_read(tmp_path, tiny_tokenizer, rows)) == ({"say"}, {"say"})
