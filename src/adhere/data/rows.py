"""A row of a corpus to the examples it holds.

A row has one of three shapes, the same in the whole corpus:

- `text`: cut after its first `prompt_words` words. These are the prompt; the rest, with the white space before it, is
  the completion, so that prompt + completion is the text to the character. It is learned whole.
- `prompt` and `completion`: learned from the completion on (or whole, where a column `learn_prompt` says so).
- `messages`: a conversation. Each assistant turn is one example: its prompt is the history, its completion the turn
  (`chat`). So every assistant turn is learned once, and judged as one output.

A column `domain` may stand beside each. Other columns are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal

from adhere.data.chat import assistant_turns, checked_messages
from adhere.errors import CorpusError
from adhere.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Column = Literal["text", "prompt", "completion", "messages", "domain"]
Shape = Literal["text", "prompt + completion", "messages"]
Row = Mapping[str, object]
Place = str  # "corpus.jsonl, line 3": what messages call a row

MAX_CHARACTERS = 1_000_000
"""A longer row is refused: it is a whole book on one line, or a file without line ends."""

SHAPES: dict[Shape, tuple[Column, ...]] = {
    "text": ("text",),
    "prompt + completion": ("prompt", "completion"),
    "messages": ("messages",),
}


@dataclass
class RowReader:
    """Makes examples of rows by one set of rules, and counts what it leaves out and why.

    Attributes:
        tokenizer: needed for `messages` alone, for its chat template.
        prompt_words: how many words of a `text` are its prompt; at least 1.
        columns: what a column is called in this corpus, where it differs. When it names a column of some shape, the
            shapes of which it names none aren't looked for.
        skip_empty_rows: leave out rows whose text is missing, empty or white space; otherwise they are errors.
        skipped: how many rows were left out, by reason.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    prompt_words: int = 4
    columns: Mapping[Column, str] = field(default_factory=dict)
    skip_empty_rows: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    _shape: Shape | None = None

    def examples(self, rows: Iterable[tuple[Place, Row]]) -> Iterator[tuple[int, Example]]:
        """Examples, each with the number of the row it came from; they are numbered from 0 in `Example.row`.

        Raises:
            CorpusError: a row without text, of another shape than the first, with a value of the wrong type, longer
                than `MAX_CHARACTERS`; a conversation that the chat template can't render. The message says which.
        """
        number = 0
        for source, (place, row) in enumerate(rows):
            shape = self._shape_of(place, row)
            if shape is None:
                continue
            domain = self._string(place, row, "domain") or "default"
            learn_prompt = shape == "text" or (shape == "prompt + completion" and row.get("learn_prompt") is True)
            for prompt, completion in self._pairs(place, row, shape):
                yield source, Example(number, prompt, completion, domain, learn_prompt)
                number += 1

    def _pairs(self, place: Place, row: Row, shape: Shape) -> list[tuple[str, str]]:
        if shape == "messages":
            messages = checked_messages(place, row[self._name("messages")])
            for message in messages:
                check_unicode(place, message["content"])
            _check_length(place, sum(len(message["content"]) for message in messages))
            pairs = assistant_turns(place, messages, self.tokenizer)
            if not pairs:
                self.skipped["conversations without an assistant turn"] += 1
            return pairs
        if shape == "text":
            text = self._string(place, row, "text")
            if not text.strip():
                return self._without_text(place, f"`{self._name('text')}` is empty")
            prompt, completion = cut_after_words(text, self.prompt_words)
            if not completion.strip():
                self.skipped[f"texts of at most {self.prompt_words} words, all prompt (corpus.prompt_words)"] += 1
                return []
        else:
            prompt, completion = self._string(place, row, "prompt"), self._string(place, row, "completion")
            if not completion.strip():
                return self._without_text(place, f"`{self._name('completion')}` is empty")
        _check_length(place, len(prompt) + len(completion))
        return [(prompt, completion)]

    def _shape_of(self, place: Place, row: Row) -> Shape | None:
        named = set(self.columns) - {"domain"}
        shapes = [shape for shape, columns in SHAPES.items() if not named or named.intersection(columns)]
        found = [shape for shape in shapes if all(row.get(self._name(column)) is not None for column in SHAPES[shape])]
        if not found:
            has = [str(name) for name, value in row.items() if value is not None][:12]
            allowed = " or ".join(self._names(shape) for shape in shapes)
            self._without_text(place, f"it has {', '.join(has) or 'nothing'}; a row has {allowed} (corpus.columns)")
            return None
        if len(found) > 1:
            raise CorpusError(
                f"{place}: holds {' and '.join(self._names(shape) for shape in found)}, and a row has one shape; "
                "name the columns to read (corpus.columns, for example {text: text})"
            )
        if self._shape not in (None, found[0]):
            raise CorpusError(
                f"{place}: this row has {self._names(found[0])}, those before it "
                f"{self._names(self._shape or found[0])}; a corpus has rows of one shape: make two files of it, or "
                "name the columns to read (corpus.columns)"
            )
        self._shape = found[0]
        return found[0]

    def _without_text(self, place: Place, what: str) -> list[tuple[str, str]]:
        if not self.skip_empty_rows:
            raise CorpusError(f"{place}: a row without text: {what}; corpus.skip_empty_rows: true leaves such rows out")
        self.skipped["without text"] += 1
        return []

    def _string(self, place: Place, row: Row, column: Column) -> str:
        value = row.get(self._name(column))
        if value is None:
            return ""
        if not isinstance(value, str):
            raise CorpusError(
                f"{place}: `{self._name(column)}` must be a string, got {type(value).__name__} {str(value)[:60]}"
            )
        check_unicode(place, value)
        return value

    def _name(self, column: Column) -> str:
        return self.columns.get(column, column)

    def _names(self, shape: Shape) -> str:
        return " + ".join(f"`{self._name(column)}`" for column in SHAPES[shape])


def cut_after_words(text: str, words: int) -> tuple[str, str]:
    """The first `words` words of a text and the rest with the white space before it; a shorter text whole, and ""."""
    ends = [match.end() for match in islice(re.finditer(r"\S+", text), words)]
    cut = ends[-1] if len(ends) == words else len(text)
    return text[:cut], text[cut:]


def check_unicode(place: Place, text: str) -> None:
    """JSON may say half a character (\\ud800 alone), which is no text: neither tokenizers nor files take it.

    Raises:
        CorpusError: it does; the message says where.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{place}: character {error.start + 1} of a text is half a character ({text[error.start]!r}), not Unicode"
        ) from error


def _check_length(place: Place, characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise CorpusError(
            f"{place}: {characters:,} characters; a row has at most {MAX_CHARACTERS:,}: cut it into several rows"
        )
