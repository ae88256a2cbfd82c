"""Reads what Keras saved, without Keras: its text tokenizer (a pickle) and its weights (HDF5).

A pickle can run any code when it is read, so this one is read by an unpickler that knows four names and refuses others.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adhere.errors import OracleError

if TYPE_CHECKING:
    import numpy as np

_HARMLESS = {("builtins", "int"), ("collections", "OrderedDict"), ("collections", "defaultdict")}
_TOKENIZER = "Tokenizer"
_TOKENIZER_MODULES = ("keras.", "keras_preprocessing.", "tensorflow.")


@dataclass(frozen=True)
class KerasWords:
    """How Keras' `Tokenizer` turns text into numbers.

    Attributes:
        index: number of each word, from 1; 0 is padding.
        filters: characters taken for the separator.
        lower: text is lower-cased first.
        split: the separator between words.
        unknown: number of words that have none; None leaves them out.
    """

    index: dict[str, int]
    filters: str
    lower: bool
    split: str
    unknown: int | None

    def numbers(self, text: str) -> list[int]:
        """The numbers of the words of a text, in order."""
        if self.lower:
            text = text.lower()
        text = text.translate({ord(character): self.split for character in self.filters})
        found = (self.index.get(word, self.unknown) for word in text.split(self.split) if word)
        return [number for number in found if number is not None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Stub:
    """Stands for the Keras class: holds its fields, does nothing."""


class _FourNames(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        if name == _TOKENIZER and module.startswith(_TOKENIZER_MODULES):
            return _Stub
        raise OracleError(f"the tokenizer file asks for {module}.{name}, which no Keras tokenizer needs: not read")


def read_tokenizer(data: bytes) -> KerasWords:
    """The tokenizer in a pickle of Keras' `Tokenizer`, with only the words it uses.

    Raises:
        OracleError: the pickle names anything but what a tokenizer is made of, or is none.
    """
    try:
        fields = vars(_FourNames(io.BytesIO(data)).load())
        index, limit, unknown = fields["word_index"], fields["num_words"], fields["oov_token"]
        # Numbers from num_words up count as unknown, as if they weren't there: only the more frequent words are used.
        return KerasWords(
            index={word: number for word, number in index.items() if limit is None or number < limit},
            filters=fields["filters"],
            lower=fields["lower"],
            split=fields["split"],
            unknown=None if unknown is None else index[unknown],
        )
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise OracleError(f"not the pickle of a Keras tokenizer: {error!r}") from error


def read_weights(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an HDF5 weights file, by their path in it.

    Raises:
        OracleError: the package `h5py` is missing, or the file is none or lacks one of the names.
    """
    try:
        import h5py
    except ImportError as error:
        raise OracleError("the weights are in HDF5: `pip install 'adhere[demo]'` reads them") from error
    try:
        with h5py.File(file, "r") as weights:
            return {name: weights[name][()] for name in names}
    except (OSError, KeyError) as error:
        raise OracleError(f"{file.name} is not the weights file expected: {error}") from error
