"""What a run reads: corpus, prompts and oracles of a recipe, checked against the model they go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from adhere.data.corpus import Corpus, CorpusConfig, load_corpus
from adhere.data.prompts import fit_to_context, prompts_from_examples, read_prompts
from adhere.data.reading import read_lines, read_rows
from adhere.data.split import normalised
from adhere.data.tokenization import tokenize_examples
from adhere.errors import CorpusError, ModelError
from adhere.guidance.constraint import Constraint, check_names
from adhere.oracles.again import judge_again
from adhere.oracles.base import Oracle, judge
from adhere.oracles.config import build_oracle
from adhere.recipe.schema import EMBEDDED, ConstraintSection, Recipe
from adhere.records import Prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class Inputs:
    """The rows and prompts of a run.

    `rows` are learned, `heldout` never; both are tokenised, `corpus` holds the same rows as text. `prompts` are sampled
    in training, `heldout_prompts` in evaluation.
    """

    corpus: Corpus
    rows: Dataset
    heldout: Dataset
    prompts: list[Prompt]
    heldout_prompts: list[Prompt]
    warnings: list[str] = field(default_factory=list)


def read_inputs(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, context_length: int) -> Inputs:
    """Read corpus and prompts, and make sure that the model can take them.

    Args:
        recipe: what to read.
        tokenizer: the model's.
        context_length: the longest sequence the model takes, in tokens.

    Raises:
        CorpusError: what is to be read cannot be, or a prompt is longer than the context allows.
        ModelError: corpus.max_length is beyond the model's context.
    """
    config, warnings = corpus_config(recipe), []
    if config.max_length > context_length:
        raise ModelError(
            f"corpus.max_length is {config.max_length} tokens, and the model {recipe.model.path!r} takes at most "
            f"{context_length}: lower corpus.max_length"
        )
    corpus = load_corpus(config, tokenizer)
    rows = tokenize_examples(corpus.train, tokenizer, config.max_length, config.max_prompt_length)
    heldout = tokenize_examples(corpus.heldout, tokenizer, config.max_length, config.max_prompt_length)
    held_out = prompts_from_examples(heldout)
    heldout_prompts = held_out[: recipe.evaluation.prompts]
    found = prompts_from_examples(rows) if recipe.prompts.path is None else read_prompts(recipe.prompts.path)
    # Prompts of the corpus too: two that were kept apart may be the same once their beginnings are cut.
    held = {normalised(prompt.text) for prompt in held_out}
    prompts = [prompt for prompt in found if normalised(prompt.text) not in held]
    if recipe.prompts.path is None:
        prompts = prompts or found  # one prompt for all rows
    else:
        if len(prompts) < len(found):
            warnings.append(
                f"{len(found) - len(prompts)} prompts of {recipe.prompts.path} are held out, and left out here"
            )
        if not prompts:
            raise CorpusError(f"{recipe.prompts.path}: every prompt is also held out for evaluation (corpus.holdout)")
    prompts = fit_to_context(
        prompts, tokenizer, context_length, recipe.sampling.max_new_tokens, recipe.prompts.overlong
    )
    in_evaluation = (recipe.evaluation.sampling or recipe.sampling).max_new_tokens
    heldout_prompts = fit_to_context(heldout_prompts, tokenizer, context_length, in_evaluation, recipe.prompts.overlong)
    if not heldout_prompts:
        warnings.append(
            "nothing is held out (corpus.holdout: 0), so the model cannot be evaluated on prompts it never saw"
        )
    return Inputs(corpus, rows, heldout, prompts, heldout_prompts, warnings)


def corpus_config(recipe: Recipe) -> CorpusConfig:
    """The recipe's corpus, `embedded` turned into the file it stands for."""
    if recipe.corpus.path != Path(EMBEDDED):
        return recipe.corpus
    from adhere.models.embedded import embedded_corpus

    return recipe.corpus.model_copy(update={"path": embedded_corpus()})


def clean_texts(recipe: Recipe) -> list[str]:
    """The texts of `evaluation.clean_texts`.

    Raises:
        CorpusError: the file cannot be read, or a row has no `text`.
    """
    source, count = recipe.evaluation.clean_texts, recipe.evaluation.clean_count
    if source == "none":
        return []
    if source == EMBEDDED:
        from adhere.models.embedded import clean_texts as embedded_texts

        return embedded_texts()[:count]
    path = Path(source)
    if path.suffix.lower() == ".txt":
        return [line for _, line in read_lines(path)][:count]
    texts = []
    for place, row in read_rows(path):
        text = row.get("text")
        if not isinstance(text, str):
            raise CorpusError(f"{place}: a clean text is a string `text`, got {str(dict(row))[:80]}")
        texts.append(text)
    return texts[:count]


def build_constraints(sections: Sequence[ConstraintSection]) -> list[Constraint]:
    """The constraints of a recipe with their oracles.

    Raises:
        OracleError, ModelError, DownloadError: an oracle cannot be built. RecipeError: two share a name.
    """
    constraints = [
        Constraint(
            build_oracle(section.oracle),
            section.target,
            section.weight,
            section.name or "",
            section.multiplier,
            section.dual,
        )
        for section in sections
    ]
    check_names(constraints)
    return constraints


def build_judges(recipe: Recipe) -> dict[str, Oracle]:
    """The second judges of a recipe, by name. Raises as `build_constraints`."""
    oracles = [build_oracle(config) for config in recipe.evaluation.judges]
    return {oracle.name: oracle for oracle in oracles}


def satisfying(rows: Dataset, constraints: Sequence[Constraint]) -> Dataset:
    """The tokenised rows that every constraint's oracle finds satisfied; one without a verdict is left out."""
    if len(rows) == 0:
        return rows
    texts = rows["prompt"][:], rows["completion"][:]
    scores = [judge_again(c.oracle, *texts, judge(c.oracle, *texts)) for c in constraints]
    kept = [i for i, of_row in enumerate(zip(*scores, strict=True)) if all(s is not None and s >= 0.5 for s in of_row)]
    return rows.select(kept)
