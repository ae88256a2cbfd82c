"""The corpus: from a file, the hub or memory to examples, some to be learned and some held out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adhere.data.reading import Format, read_rows
from adhere.data.rows import Column, Place, Row, RowReader
from adhere.data.split import holdout_split, without_texts_of
from adhere.errors import CorpusError
from adhere.records import Example

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
EXAMPLE_COLUMNS = ("row", "source", "prompt", "completion", "domain", "learn_prompt")
ROWS_AT_ONCE = 10_000


class CorpusConfig(BaseModel):
    """What to learn from: section `corpus` of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(
        default=None, description="A JSONL, Parquet or CSV file; rows have text, prompt + completion or messages."
    )
    dataset: str | None = Field(
        default=None, description="Instead of `path`: the name of a dataset on the Hugging Face hub."
    )
    name: str | None = Field(default=None, description="Which configuration of the hub dataset, where it has several.")
    split: str = Field(default="train", description="Which split of the hub dataset.")
    format: Format | Literal["auto"] = Field(default="auto", description="Format of `path`; auto goes by its suffix.")
    columns: dict[Column, str] = Field(
        default_factory=dict, description="What a column is called in this corpus, where it differs: {text: body}."
    )
    prompt_words: int = Field(
        default=4, ge=1, description="A text row is cut into this many words, the prompt, and the rest."
    )
    max_length: int = Field(
        default=512, ge=2, description="Tokens of prompt, completion and EOS together; the rest is cut off."
    )
    max_prompt_length: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of the prompt; its beginning is cut off. Half of max_length when not given.",
    )
    holdout: Annotated[float, Field(ge=0, lt=1)] | Path = Field(
        default=0.1,
        union_mode="left_to_right",
        description="What is never learned, for evaluation: a fraction of the corpus, or the path of a file.",
    )
    skip_empty_rows: bool = Field(
        default=False, description="Leave out rows without text instead of stopping at the first."
    )
    seed: int = Field(default=0, ge=0, description="Decides which rows are held out.")

    @model_validator(mode="after")
    def _consistent(self) -> CorpusConfig:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give exactly one of path (a file) and dataset (a name on the hub)")
        if self.max_prompt_length is not None and self.max_prompt_length >= self.max_length:
            raise ValueError(
                f"max_prompt_length must be less than max_length, got {self.max_prompt_length} and {self.max_length}"
            )
        return self


@dataclass(frozen=True)
class Corpus:
    """Examples to learn from and examples that are never learned; no text and no prompt is in both (see `split`).

    Both have the columns of `Example` and `source`, the corpus row an example came from: several where it is a
    conversation.
    """

    train: Dataset
    heldout: Dataset
    skipped: dict[str, int] = field(default_factory=dict)  # rows left out, by reason


def load_corpus(config: CorpusConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> Corpus:
    """Read the corpus and hold a part of it out.

    Args:
        config: where it is and how to read it.
        tokenizer: needed where the rows are `messages`, for its chat template.

    Raises:
        CorpusError: it cannot be read, a row is broken, or nothing is left to learn from. The message names file and
            line.
    """
    examples, skipped = _read(config, tokenizer, path=config.path)
    if not isinstance(config.holdout, Path):
        train, heldout = holdout_split(examples, config.holdout, config.seed)
        return Corpus(train, heldout, skipped)
    heldout, _ = _read(config.model_copy(update={"format": "auto"}), tokenizer, path=config.holdout)
    train = without_texts_of(examples, heldout)
    if len(train) == 0:
        raise CorpusError(
            f"{config.holdout}: every row of the corpus is also held out (corpus.holdout); nothing is left to learn"
        )
    if len(train) < len(examples):
        skipped["also in the held-out file"] = len(examples) - len(train)
        logger.warning("corpus: left out %d rows that are also in %s", len(examples) - len(train), config.holdout)
    return Corpus(train, heldout, skipped)


def load_examples(config: CorpusConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> Dataset:
    """All examples of the corpus, `config.holdout` left aside; see `load_corpus`."""
    return _read(config, tokenizer, path=config.path)[0]


def examples_from_dataset(
    dataset: Dataset | Sequence[Row], tokenizer: PreTrainedTokenizerBase | None = None, prompt_words: int = 4
) -> Dataset:
    """Examples of a dataset in memory, or of a list of dicts; what is made of examples already is given back as it is.

    Raises:
        CorpusError: as `load_corpus`; a dataset without length, or several splits.
    """
    from datasets import Dataset, DatasetDict, IterableDataset

    if isinstance(dataset, (DatasetDict, IterableDataset)):
        advice = "choose one split of it" if isinstance(dataset, DatasetDict) else "make a datasets.Dataset of it"
        raise CorpusError(
            f"the corpus is a {type(dataset).__name__}, where a datasets.Dataset or a list of dicts is taken: {advice}"
        )
    if isinstance(dataset, Dataset) and set(EXAMPLE_COLUMNS) <= set(dataset.column_names):
        return dataset
    reader = RowReader(tokenizer, prompt_words)
    return _to_dataset(reader, _numbered("the dataset", cast("Iterable[Row]", dataset)), "the dataset")


def _read(
    config: CorpusConfig, tokenizer: PreTrainedTokenizerBase | None, path: Path | None
) -> tuple[Dataset, dict[str, int]]:
    reader = RowReader(tokenizer, config.prompt_words, config.columns, config.skip_empty_rows)
    if path is not None:
        examples = _to_dataset(reader, read_rows(path, config.format), str(path))
    else:
        examples = _to_dataset(reader, _hub_rows(config), str(config.dataset))
    return examples, dict(reader.skipped)


def _hub_rows(config: CorpusConfig) -> Iterator[tuple[Place, Row]]:
    from datasets import load_dataset

    where = " ".join(part for part in (config.dataset, config.name, config.split) if part)
    try:
        dataset = load_dataset(str(config.dataset), config.name, split=config.split)
    except Exception as error:  # the library raises a dozen kinds: no network, no such name, no such split, a gated set
        raise CorpusError(
            f"the dataset {where} cannot be loaded: {error} (corpus.dataset, corpus.name, corpus.split; without "
            "network: download it elsewhere and give the file as corpus.path)"
        ) from error
    yield from _numbered(where, dataset)


def _numbered(what: str, rows: Iterable[Row]) -> Iterator[tuple[Place, Row]]:
    for number, row in enumerate(rows, start=1):
        place = f"{what}, row {number}"
        if not isinstance(row, Mapping):
            raise CorpusError(f'{place}: must be a dict such as {{"text": "..."}}, got {type(row).__name__}')
        yield place, row


def _to_dataset(reader: RowReader, rows: Iterable[tuple[Place, Row]], what: str) -> Dataset:
    """Arrow tables of a few thousand rows, joined: the corpus is in memory once, as Arrow, never as Python objects."""
    from datasets import Dataset, Features, Value, concatenate_datasets

    kinds = {"row": "int64", "source": "int64", "learn_prompt": "bool"}
    features = Features({column: Value(kinds.get(column, "string")) for column in EXAMPLE_COLUMNS})
    examples = reader.examples(rows)
    parts: list[Dataset] = []
    while chunk := list(islice(examples, ROWS_AT_ONCE)):
        parts.append(Dataset.from_dict(_columns(chunk), features=features))
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reader.skipped.items())
    if not parts:
        raise CorpusError(
            f"{what}: nothing to learn from: "
            + (f"every row was left out: {left_out}" if left_out else "it has no rows")
        )
    if left_out:
        logger.warning("%s: rows left out: %s", what, left_out)
    return concatenate_datasets(parts)


def _columns(chunk: list[tuple[int, Example]]) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        name: [getattr(example, name) for _, example in chunk] for name in EXAMPLE_COLUMNS if name != "source"
    }
    return {**columns, "source": [source for source, _ in chunk]}
