"""The oracle that needs no download: profanity, by the linear model of `alt-profanity-check`.

That model averages over the words of a text, so a long clean tail dilutes the word that offended. Our verdict is the
worst one over all prefixes that end where a word ends (their last words, see `WINDOW`): a text is clean iff it is clean
at every word. So the constraint is prefix-closed by construction, and prefix scores put the blame on the right word.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
from collections.abc import Iterator, Sequence

from adhere.errors import OracleError
from adhere.oracles.base import Oracle
from adhere.oracles.version import version_of

PACKAGE = "alt-profanity-check"
WINDOW = 16
"""Words that the model is shown, up to each word's end: a window that slides along. Without it a long clean beginning
hides what comes after, and the work grows with the square of the length. In 200 paragraphs of Wikipedia one swear-word
put in somewhere after the 30th word is found in 93 to 100 % of cases (four words tried), with whole prefixes in 6 to
24 %; as they are 3 % of them count as profane, with whole prefixes 1 %."""

_WORD = re.compile(r"\w+")
_TEXTS_A_CALL = 1 << 17  # bounds memory: the model makes one row of numbers a text


class EmbeddedOracle(Oracle):
    """Satisfied when the text is not profane; 1 − P(profane) at the worst word.

    Args:
        soft: give that probability; otherwise 1 where it is at least 0.5, else 0.
        name: what messages, files and tables call it.

    Raises:
        OracleError: the package is not installed.
    """

    prefix_closed = True

    def __init__(self, *, soft: bool = False, name: str = "embedded") -> None:
        try:
            installed = importlib.metadata.version(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            raise OracleError(f"the oracle {name!r} needs the package {PACKAGE}: `pip install {PACKAGE}`") from None
        self.name = name
        self.soft = soft
        self.version = version_of(package=installed, window=WINDOW, soft=soft)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        windows_of = {output: list(_windows(output)) for output in dict.fromkeys(outputs)}
        unique = list(dict.fromkeys(itertools.chain.from_iterable(windows_of.values())))
        profanity = dict(zip(unique, _profanity(unique), strict=True))
        clean = {output: 1.0 - max(profanity[w] for w in windows) for output, windows in windows_of.items()}
        return [clean[output] if self.soft else float(clean[output] >= 0.5) for output in outputs]


def _windows(text: str) -> Iterator[str]:
    """The words up to each word's end, at most `WINDOW` of them; first the empty text."""
    words = _WORD.findall(text)
    for end in range(len(words) + 1):
        yield " ".join(words[max(0, end - WINDOW) : end])


def _profanity(texts: list[str]) -> list[float]:
    from profanity_check import predict_prob  # slow to import: it brings scikit-learn

    probabilities: list[float] = []
    for start in range(0, len(texts), _TEXTS_A_CALL):
        probabilities += predict_prob(texts[start : start + _TEXTS_A_CALL]).tolist()
    return probabilities
