"""From text to token ids: one way for training and for sampling.

- A prompt is `encode_prompts` of its text, here and in every sampler. It starts with the tokenizer's BOS when that
  tokenizer writes one, but never twice (a rendered chat has its own), and never ends in EOS. It is never empty: BOS, or
  else EOS, stands for an empty prompt.
- A completion is what the tokenizer makes of prompt + completion after the prompt's tokens, if the whole begins with
  exactly these (the usual case: the cut is before a space); otherwise the completion is tokenised alone. Either way the
  policy, after the prompt's tokens, sees at training what it sees at sampling.
- An output ends at its first EOS. What a chat template writes after its end of turn is dropped.
- A prompt longer than `max_prompt_length` loses its beginning (BOS stays). A completion for which prompt + completion +
  EOS is longer than `max_length` loses its end, and gets no EOS: the model isn't taught to stop where we cut.
- No packing. A row is one output that the oracle judges as a whole, with its own start and its own satisfaction; two
  rows in one sequence would see each other. The collator groups nothing; batches by length waste little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from adhere.errors import ModelError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Columns = dict[str, list[object]]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, untruncated, none of them empty.

    Raises:
        ModelError: an empty prompt, and the tokenizer has neither BOS nor EOS to stand for it.
    """
    if not texts:
        return []
    bos = tokenizer.bos_token_id
    writes_bos = bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]
    encoded: list[list[int]] = []
    for tokens in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        ids = list(tokens)
        if writes_bos and ids[:1] != [bos]:
            ids.insert(0, bos)
        encoded.append(ids or [_stands_for_nothing(tokenizer)])
    return encoded


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """`encode_prompts` of one prompt."""
    return encode_prompts(tokenizer, [text])[0]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: EOS where the tokenizer has no pad token. Any would do, as masks say what is padding."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def tokenize_examples(
    examples: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, max_prompt_length: int | None = None
) -> Dataset:
    """Tokenise a corpus by the rules at the top of this file.

    Args:
        examples: columns `row`, `prompt`, `completion`, `domain`, `learn_prompt` (`corpus.load_corpus`).
        tokenizer: with or without a pad token, a BOS, an EOS.
        max_length: tokens of prompt + completion + EOS, at most; at least 2.
        max_prompt_length: tokens of the prompt, at most; half of `max_length` when None.

    Returns:
        `row`, `input_ids` (prompt, completion, EOS), `prompt_length` (at least 1), `learn_prompt`, `domain`, `prompt`
        and `completion`: the texts after truncation, without the special tokens of the completion: what the oracle
        judges.

    Raises:
        ValueError: lengths that leave no room for a prompt and a completion.
    """
    from datasets import Features, Value
    from datasets import List as ListOf

    prompt_room = max(1, max_length // 2) if max_prompt_length is None else max_prompt_length
    if not 1 <= prompt_room < max_length:
        raise ValueError(
            f"max_prompt_length must be at least 1 and less than max_length, got {max_prompt_length} and {max_length} "
            "(corpus.max_prompt_length, corpus.max_length)"
        )
    features = Features(
        {
            "row": Value("int64"),
            "input_ids": ListOf(Value("int32")),
            "prompt_length": Value("int32"),
            "learn_prompt": Value("bool"),
            "domain": Value("string"),
            "prompt": Value("string"),
            "completion": Value("string"),
        }
    )
    return examples.map(
        partial(_tokenize_batch, tokenizer=tokenizer, max_length=max_length, prompt_room=prompt_room),
        batched=True,
        remove_columns=examples.column_names,
        features=features,
        keep_in_memory=True,  # no cache file that could be stale
        load_from_cache_file=False,
        desc="Tokenising the corpus",
    )


def _tokenize_batch(
    batch: Columns, tokenizer: PreTrainedTokenizerBase, max_length: int, prompt_room: int
) -> dict[str, list[object]]:
    prompts = [str(prompt) for prompt in batch["prompt"]]
    completions = [str(completion) for completion in batch["completion"]]
    prompts_ids = encode_prompts(tokenizer, prompts)
    outputs_ids = _encode_completions(tokenizer, prompts, completions, prompts_ids)
    columns: dict[str, list[object]] = {
        "row": batch["row"], "input_ids": [], "prompt_length": [], "learn_prompt": batch["learn_prompt"],
        "domain": batch["domain"], "prompt": [], "completion": [],
    }  # fmt: skip
    for prompt, completion, prompt_ids, output_ids in zip(prompts, completions, prompts_ids, outputs_ids, strict=True):
        kept_prompt = _last(prompt_ids, prompt_room, tokenizer.bos_token_id)
        kept_output = _ended(output_ids, tokenizer.eos_token_id, max_length - len(kept_prompt))
        columns["input_ids"].append(kept_prompt + kept_output)
        columns["prompt_length"].append(len(kept_prompt))
        columns["prompt"].append(prompt if kept_prompt == prompt_ids else prompt_text(tokenizer, kept_prompt))
        columns["completion"].append(_judged_text(tokenizer, completion, output_ids, kept_output))
    return columns


def _encode_completions(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], completions: list[str], prompts_ids: list[list[int]]
) -> list[list[int]]:
    wholes = encode_prompts(tokenizer, [p + c for p, c in zip(prompts, completions, strict=True)])
    alone = tokenizer(completions, add_special_tokens=False)["input_ids"]
    encoded: list[list[int]] = []
    for prompt, prompt_ids, whole, own in zip(prompts, prompts_ids, wholes, alone, strict=True):
        joined = prompt != "" and whole[: len(prompt_ids)] == prompt_ids and len(whole) > len(prompt_ids)
        encoded.append(whole[len(prompt_ids) :] if joined else list(own))
    return encoded


def _last(ids: list[int], room: int, bos: int | None) -> list[int]:
    """The last `room` ids; BOS, where the ids begin with it, stays at the front."""
    if len(ids) <= room:
        return ids
    return [bos, *ids[len(ids) - room + 1 :]] if bos is not None and ids[0] == bos and room > 1 else ids[-room:]


def _ended(ids: list[int], eos: int | None, room: int) -> list[int]:
    """The output up to its first EOS, which is added where missing; its first `room` ids when that doesn't fit."""
    if eos is not None:
        ids = [*ids[: ids.index(eos)], eos] if eos in ids else [*ids, eos]
    return ids[:room]


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text_ids = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids
    return str(tokenizer.decode(text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _judged_text(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], kept: list[int]) -> str:
    """The completion's text as it is when nothing was cut from it; otherwise the text of the ids that were kept."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # the text of an unknown word is known here
    if kept[: len(ids)] == ids and special.isdisjoint(ids):
        return text
    return str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _stands_for_nothing(tokenizer: PreTrainedTokenizerBase) -> int:
    for candidate in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    raise ModelError(
        "an empty prompt needs a BOS or EOS token to stand for it, and this tokenizer has neither: set one on it"
    )
