"""Oracles that follow a rule anybody can read: regular expressions, word lists, length, valid JSON. All say 0 or 1.

Prefix-closed means: once violated, violated however the text goes on at a word boundary (after a space or punctuation).
Each rule claims it exactly where it can be shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from adhere.errors import OracleError
from adhere.oracles.base import Effort, Oracle
from adhere.oracles.version import version_of

# Character classes and escapes stand for one character each, whatever is in them, except the escapes \B, \Z and \z.
_ONE_CHARACTER = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[^BZz]", re.DOTALL)
# What can undo a match when text follows: the end of the text ($, \Z, \B), looking ahead, atomic groups and possessive
# quantifiers (they may take more of a longer text); and what hides those from this reading: comments and (?x).
_UNDONE_BY_MORE_TEXT = re.compile(r"\$|\\[BZz]|\(\?(?:[=!>#]|[a-z-]*x)|[*+?}]\+")


class RegexOracle(Oracle):
    r"""Satisfied when the pattern is found nowhere (`forbidden`), or somewhere (`required`), in the output.

    Args:
        pattern: as Python's `re` reads it; flags go inside, for example `(?i)`.
        mode: whether the pattern is forbidden or required.
        prefix_closed: None finds out: true for a forbidden pattern in which nothing depends on what follows the match
            (no `$`, `\Z`, `\B`, look-ahead, atomic group or possessive quantifier). State it where you know better.
        name: what messages, files and tables call it.

    Raises:
        OracleError: not a regular expression.
    """

    effort = Effort.RULE

    def __init__(
        self,
        pattern: str,
        *,
        mode: Literal["forbidden", "required"] = "forbidden",
        prefix_closed: bool | None = None,
        name: str = "regex",
    ) -> None:
        try:
            self._pattern = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            shown = repr(pattern if len(pattern) <= 80 else f"{pattern[:77]}...")
            raise OracleError(f"oracle {name!r}: {shown} is not a regular expression: {error}") from error
        if mode not in ("forbidden", "required"):
            raise OracleError(f"oracle {name!r}: mode must be 'forbidden' or 'required', got {mode!r}")
        self.name = name
        self.mode = mode
        self.prefix_closed = (
            prefix_closed if prefix_closed is not None else mode == "forbidden" and _final(self._pattern)
        )
        self.version = version_of(pattern=pattern, mode=mode)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        required = self.mode == "required"
        return [float((self._pattern.search(output) is not None) == required) for output in outputs]


def _final(pattern: re.Pattern[str]) -> bool:
    r"""True when a match found in a text is certainly still one when the text goes on at a word boundary.

    Without the constructs above, the path by which the expression matched looks at no character after the match, except
    for `\b`, which holds at a word's end whether the text ends or a space follows. Under a negation (a negative
    look-behind) `\b` is what `\B` is elsewhere.
    """
    text = pattern.pattern
    if pattern.flags & re.VERBOSE or ("(?<!" in text and r"\b" in text):
        return False
    return _UNDONE_BY_MORE_TEXT.search(_ONE_CHARACTER.sub("c", text)) is None


class WordListOracle(Oracle):
    """Satisfied when none of the words stands in the output as a whole word, upper and lower case alike.

    Args:
        words: words or phrases (any white space matches the spaces of a phrase).
        path: a UTF-8 file with one word or phrase a line instead; empty lines and lines that begin with # are skipped.
        name: what messages, files and tables call it.

    Raises:
        OracleError: both or neither of `words` and `path`, a file that cannot be read, or no words.
    """

    prefix_closed = True

    effort = Effort.RULE

    def __init__(
        self, words: Iterable[str] | None = None, *, path: str | Path | None = None, name: str = "words"
    ) -> None:
        if (words is None) == (path is None):
            raise OracleError(f"oracle {name!r} takes either words or the path of a file of words")
        if isinstance(words, str):
            raise OracleError(f"oracle {name!r}: words must be a list of words, got the text {words!r}")
        listed = _words_in(Path(path), name) if path is not None else list(words or ())
        phrases = sorted({tuple(word.casefold().split()) for word in listed} - {()})
        if not phrases:
            raise OracleError(f"oracle {name!r} has no words" + (f" in {path}" if path is not None else ""))
        choices = "|".join(r"\s+".join(map(re.escape, phrase)) for phrase in phrases)
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)")
        self.name = name
        self.version = version_of(words=phrases)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return [float(self._pattern.search(output.casefold()) is None) for output in outputs]


def _words_in(path: Path, name: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OracleError(f"oracle {name!r}: the word list {path} cannot be read as UTF-8: {error}") from error
    return [line for line in lines if not line.lstrip().startswith("#")]


class LengthOracle(Oracle):
    """Satisfied when the output has at least `minimum` and at most `maximum` words (or characters).

    Words are what white space separates. Prefix-closed when there is no minimum.

    Raises:
        OracleError: no limit at all, a negative one, or minimum above maximum.
    """

    effort = Effort.RULE

    def __init__(
        self,
        minimum: int | None = None,
        maximum: int | None = None,
        *,
        unit: Literal["words", "characters"] = "words",
        name: str = "length",
    ) -> None:
        if unit not in ("words", "characters"):
            raise OracleError(f"oracle {name!r}: unit must be 'words' or 'characters', got {unit!r}")
        low, high = minimum or 0, maximum if maximum is not None else float("inf")
        if (minimum is None and maximum is None) or not 0 <= low <= high:
            raise OracleError(
                f"oracle {name!r} needs 0 ≤ minimum ≤ maximum, one of them at least; "
                f"got minimum {minimum} and maximum {maximum}"
            )
        self._low, self._high = low, high
        self.unit = unit
        self.name = name
        self.prefix_closed = low == 0
        self.version = version_of(minimum=minimum, maximum=maximum, unit=unit)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        lengths = (len(output.split()) if self.unit == "words" else len(output) for output in outputs)
        return [float(self._low <= length <= self._high) for length in lengths]


class JsonOracle(Oracle):
    """Satisfied when the whole output is valid JSON (RFC 8259: no NaN), and an object with the required keys if any.

    Not prefix-closed: half an object is not valid, the whole may be.
    """

    effort = Effort.RULE

    def __init__(self, required_keys: Sequence[str] = (), *, name: str = "json") -> None:
        if isinstance(required_keys, str):
            raise OracleError(f"oracle {name!r}: required_keys must be a list of keys, got the text {required_keys!r}")
        self._keys = frozenset(required_keys)
        self.name = name
        self.version = version_of(required_keys=sorted(self._keys))

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return [float(self._holds(output)) for output in outputs]

    def _holds(self, output: str) -> bool:
        try:
            value = json.loads(output, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return not self._keys or (isinstance(value, dict) and self._keys <= value.keys())


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
