"""`evaluation/tokens.json`: some outputs with what NADO says of every token, for the report to colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adhere.files import write_json_atomic
from adhere.guidance.reading import satisfaction_by_token
from adhere.oracles.base import violates
from adhere.recipe.schema import Recipe
from adhere.recipe.trained import last_guidance, load_base, reference_of
from adhere.records import EvaluationResult, LabelledSample


def write_tokens(recipe: Recipe, results: Sequence[EvaluationResult], count: int) -> None:
    """Read `count` outputs of each model, half of them violating where there are any, by every constraint's NADO."""
    base = load_base(recipe)
    reference = reference_of(recipe, base)
    guidance = last_guidance(recipe.output_dir, reference)
    told: list[dict[str, Any]] = []
    for name, nado in guidance.nados.items():
        for result in results:
            chosen = [labelled.sample for labelled in _chosen(result, name, count)]
            outputs = [(sample.prompt_ids, sample.output_ids) for sample in chosen]
            for sample, r in zip(chosen, satisfaction_by_token(nado, reference, outputs), strict=True):
                tokens = [base.tokenizer.decode([token]) for token in sample.output_ids]
                told.append(
                    {
                        "prompt": sample.prompt,
                        "tokens": tokens,
                        "satisfaction": [round(value, 5) for value in r],
                        "model": result.model,
                        "constraint": name,
                    }
                )
    write_json_atomic(recipe.output_dir / "evaluation" / "tokens.json", told)


def _chosen(result: EvaluationResult, constraint: str, count: int) -> list[LabelledSample]:
    """The first outputs in the order of the prompts: violating ones for half, then satisfying ones."""
    judged = [
        (labelled, score)
        for labelled in result.completions
        if (score := labelled.verdicts[constraint].score) is not None and labelled.sample.output_ids
    ]
    bad = [labelled for labelled, score in judged if violates(score)][: -(-count // 2)]
    return [*bad, *(labelled for labelled, score in judged if not violates(score))][:count]
