"""Which words of a sample are hidden until the reader asks for them.

A sample that names its words (`masked_words`) is believed. Otherwise a word is hidden when the embedded oracle calls it
profane by itself: in every sample, whatever the verdict, since a prompt or an output judged clean may hold one too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from adhere.errors import OracleError
from adhere.oracles.base import Oracle, judge, violates

_WORD = re.compile(r"\w+")
DOT = "•"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; `cover` is what stands in its place while it is hidden, empty when it never is."""

    text: str
    cover: str = ""


def profane_words(texts: Iterable[str], oracle: Oracle | None = None) -> frozenset[str]:
    """The words (casefolded) of these texts that violate the oracle by themselves; the embedded oracle unless given.

    Raises:
        OracleError: the oracle cannot be had or fails.
    """
    words = sorted({word.casefold() for text in texts for word in _WORD.findall(text)})
    if not words:
        return frozenset()
    if oracle is None:
        from adhere.oracles.embedded import EmbeddedOracle  # slow to import

        oracle = EmbeddedOracle()
    scores = judge(oracle, [""] * len(words), words)
    return frozenset(word for word, score in zip(words, scores, strict=True) if score is not None and violates(score))


def try_profane_words(texts: Iterable[str]) -> tuple[frozenset[str], str]:
    """`profane_words`, or every word and a sentence that says why: what cannot be judged is not shown."""
    texts = list(texts)
    try:
        return profane_words(texts), ""
    except OracleError as error:
        everything = frozenset(word.casefold() for text in texts for word in _WORD.findall(text))
        return everything, f"Every word is masked, because the words could not be judged: {error}"


def mask(text: str, words: Collection[str]) -> list[Piece]:
    """Cut a text into what is shown and what is hidden: whole words or phrases, whatever their case."""
    return mask_tokens([text], words)[0]


def mask_tokens(tokens: Sequence[str], words: Collection[str]) -> list[list[Piece]]:
    """`mask` for a text that comes in tokens, which may cut a word anywhere: a list of pieces for each token."""
    text = "".join(tokens)
    hidden = [False] * len(text)
    starts = set()
    for start, end in _spans(text, words):
        hidden[start:end] = [True] * (end - start)
        starts.add(start)
    result, offset = [], 0
    for token in tokens:
        pieces: list[Piece] = []
        stretches = re.finditer("1+|0+", "".join("1" if flag else "0" for flag in hidden[offset : offset + len(token)]))
        for stretch in stretches:
            first, last = offset + stretch.start(), offset + stretch.end()
            cover = ""
            if hidden[first]:
                # The first letter of a word tells a reader what it is without printing it.
                cover = "".join(
                    char if place in starts or char.isspace() else DOT
                    for place, char in enumerate(text[first:last], first)
                )
            pieces.append(Piece(text[first:last], cover))
        result.append(pieces)
        offset += len(token)
    return result


def _spans(text: str, words: Collection[str]) -> Iterable[tuple[int, int]]:
    single = {word.casefold() for word in words if _WORD.fullmatch(word)}
    phrases = [word for word in words if word.strip() and not _WORD.fullmatch(word)]
    yield from (found.span() for found in _WORD.finditer(text) if found.group().casefold() in single)
    if phrases:
        escaped = (re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
        pattern = rf"(?<!\w)(?:{'|'.join(escaped)})(?!\w)"
        yield from (found.span() for found in re.finditer(pattern, text, re.IGNORECASE))
