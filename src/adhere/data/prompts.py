"""Prompts to sample from: a file of them, or those of the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adhere.data.reading import read_lines, read_rows
from adhere.data.rows import Row, check_unicode
from adhere.data.tokenization import encode_prompt, encode_prompts, prompt_text
from adhere.errors import CorpusError
from adhere.records import Prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["error", "truncate"]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, each different one once, in the order of the file.

    A .txt file has a prompt on each line; the formats of a corpus (JSONL, Parquet, CSV) a column `prompt` or `text` and
    perhaps `domain`.

    Raises:
        CorpusError: the file is missing, empty or broken, or a row has no prompt. The message names file and line.
    """
    if path.suffix.lower() == ".txt":
        pairs = [(line, "default") for _, line in read_lines(path)]
    else:
        pairs = [(_prompt(place, row), _domain(place, row)) for place, row in read_rows(path)]
    if not pairs:
        raise CorpusError(f"{path}: no prompts in it")
    return _numbered(pairs)


def prompts_from_examples(examples: Dataset) -> list[Prompt]:
    """The prompts of examples, each different one once, in the order of the examples.

    Args:
        examples: columns `prompt` and `domain`: of `corpus.load_corpus`, or of `tokenize_examples`, which has cut them.
    """
    return _numbered(list(zip(examples["prompt"], examples["domain"], strict=True)))


def fit_to_context(
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    max_new_tokens: int,
    overlong: Overlong = "error",
) -> list[Prompt]:
    """Make sure that every prompt leaves room for what is to be written.

    Args:
        prompts: what will be sampled from.
        tokenizer: the policy's.
        context: how many tokens the policy can see.
        max_new_tokens: how many of them an output may take.
        overlong: what happens to a prompt of more than `context - max_new_tokens` tokens: an error, or its beginning is
            cut off.

    Returns:
        The prompts, with the same indices.

    Raises:
        CorpusError: a prompt is longer than the context allows, or nothing is left for any prompt.
    """
    room = context - max_new_tokens
    if room < 1:
        raise CorpusError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the model's context of {context} "
            "tokens: lower "
            "sampling.max_new_tokens"
        )
    fitting = []
    encoded = encode_prompts(tokenizer, [prompt.text for prompt in prompts])
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) <= room:
            fitting.append(prompt)
        elif overlong == "truncate":
            fitting.append(Prompt(prompt.index, _shortened(tokenizer, ids, room), prompt.domain))
        else:
            raise CorpusError(
                f"prompt longer than the context: prompt {prompt.index} ({prompt.text[:60]!r}...) has {len(ids)} "
                f"tokens, and the model's context of {context} less max_new_tokens {max_new_tokens} has room for "
                f"{room}: shorten it, lower sampling.max_new_tokens, or cut the beginning of such prompts "
                "(prompts.overlong: truncate)"
            )
    return fitting


def _shortened(tokenizer: PreTrainedTokenizerBase, ids: list[int], room: int) -> str:
    """The longest end of a prompt of at most `room` tokens; its text may make other tokens than it was cut from."""
    for kept in range(room, 0, -1):
        text = prompt_text(tokenizer, ids[-kept:])
        if len(encode_prompt(tokenizer, text)) <= room:
            return text
    return ""


def _numbered(pairs: list[tuple[str, str]]) -> list[Prompt]:
    domains: dict[str, str] = {}
    for text, domain in pairs:
        domains.setdefault(text, domain)
    return [Prompt(index, text, domain) for index, (text, domain) in enumerate(domains.items())]


def _prompt(place: str, row: Row) -> str:
    prompt = row.get("text") if row.get("prompt") is None else row["prompt"]
    if not isinstance(prompt, str):
        raise CorpusError(f"{place}: a row of prompts has a string `prompt` or `text`, got {str(dict(row))[:80]}")
    check_unicode(place, prompt)
    return prompt


def _domain(place: str, row: Row) -> str:
    domain = row.get("domain") or "default"
    if not isinstance(domain, str):
        raise CorpusError(f"{place}: `domain` must be a string, got {domain!r}")
    return domain
