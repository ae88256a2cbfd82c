"""Any sequence classifier of transformers as an oracle.

Batch axes: B texts, T tokens, L labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adhere.downloads import sha256_of
from adhere.errors import ModelError, OracleError
from adhere.oracles.base import Oracle
from adhere.oracles.version import version_of

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

_NO_LIMIT = 1_000_000  # tokenizers that state no limit state an absurd one
MULTI_LABEL = "multi_label_classification"
SINGLE_LABEL = "single_label_classification"


class ClassifierOracle(Oracle):
    """Satisfied when a classifier finds a label absent from (or present in) the output.

    The probability of a label is the sigmoid of its own logit for a multi-label classifier or one with a single logit,
    a softmax over the labels otherwise; the model's configuration says which.

    Args:
        model: folder or hub name; weights in safetensors only, no code of the repository is run.
        label: one of the model's labels, as its configuration names them.
        multi_label: whether labels are independent of each other (sigmoid) or exclude each other (softmax); without it as
            the configuration says.
        satisfied_when: the label is "absent" (toxic) or "present" (polite).
        threshold: probability above which the label counts as present; the score is 0 or 1.
        soft: the score is the probability itself; `threshold` must then be left at 0.5.
        batch_size: texts at a time; they are sorted by length first.
        max_length: tokens read of each text, at most what the model can take; the rest is cut off, counted in
            `truncated`, and warned of once.
        device: such as "cuda:0"; without it the first GPU if there is one.
        dtype: of the weights: "float32", "bfloat16" or "float16".
        prefix_closed: state it when a violating text stays violating however it goes on; few classifiers promise it.
        name: what messages, files and tables call it; without it, the model's name and the label.

    Raises:
        ModelError: the model cannot be loaded.
        OracleError: no such label (the message lists them), or a regression model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        label: str = "toxic",
        multi_label: bool | None = None,
        satisfied_when: Literal["absent", "present"] = "absent",
        threshold: float = 0.5,
        soft: bool = False,
        batch_size: int = 32,
        max_length: int | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        prefix_closed: bool = False,
        name: str | None = None,
    ) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        self.name = name or f"{Path(model).name} {label}"
        if satisfied_when not in ("absent", "present"):
            raise OracleError(
                f"oracle {self.name!r}: satisfied_when must be 'absent' or 'present', got {satisfied_when!r}"
            )
        if not 0.0 < threshold < 1.0 or (soft and threshold != 0.5):
            raise OracleError(
                f"oracle {self.name!r}: threshold must be in (0, 1), and 0.5 with soft; got {threshold}, soft={soft}"
            )
        try:
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
            self._label = _index_of(label, config, str(model))
            self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            self._model = AutoModelForSequenceClassification.from_pretrained(
                model, trust_remote_code=False, use_safetensors=True, dtype=getattr(torch, dtype)
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the classifier {str(model)!r} cannot be loaded: {error} (it must be a sequence classifier of "
                "transformers with its tokenizer, and with weights in safetensors)"
            ) from error
        if self._tokenizer.pad_token is None:  # a classifier made from a causal model; what pads is masked
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model.to(self._device).eval()
        self._sigmoid = _is_sigmoid(config) if multi_label is None else multi_label
        self._max_length = _limit(max_length, self._tokenizer.model_max_length, config)
        self._batch_size = batch_size
        self._present = satisfied_when == "present"
        self._threshold = threshold
        self._soft = soft
        self._warned = False
        self.truncated = 0
        self.prefix_closed = prefix_closed
        settings = (label, satisfied_when, threshold, soft, self._max_length, dtype)
        stated = {} if multi_label is None else {"multi_label": multi_label}
        self.version = version_of(weights=fingerprint(model, config), settings=settings, **stated)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        texts = list(dict.fromkeys(outputs))
        # Half a surrogate pair is no text to a tokenizer: judge it as the question mark that it is shown as.
        encodable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        of_text = dict(zip(texts, map(self._satisfaction, self._probabilities(encodable)), strict=True))
        return [of_text[output] for output in outputs]

    def _satisfaction(self, probability: float | None) -> float | None:
        if probability is None:
            return None
        if self._soft:
            return probability if self._present else 1.0 - probability
        # At the threshold itself both directions are satisfied, as a soft score of 0.5 is.
        return float(probability >= self._threshold if self._present else probability <= self._threshold)

    def _probabilities(self, texts: list[str]) -> list[float | None]:
        """Probability of the label for each text in order; None for a text without a single token."""
        if not texts:
            return []
        ids = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        self._count_truncated(ids)
        order = sorted((i for i in range(len(texts)) if ids[i]), key=lambda i: len(ids[i]))
        probabilities: list[float | None] = [None] * len(texts)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            for i, probability in zip(batch, self._of_batch([texts[i] for i in batch]), strict=True):
                probabilities[i] = probability
        return probabilities

    def _of_batch(self, texts: list[str]) -> list[float]:
        import torch

        inputs = self._tokenizer(
            texts,
            padding=len(texts) > 1,
            truncation=self._max_length is not None,
            max_length=self._max_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits_BL: torch.Tensor = self._model(**inputs.to(self._device)).logits.float()
        probability_BL = logits_BL.sigmoid() if self._sigmoid else logits_BL.softmax(dim=-1)
        return probability_BL[:, self._label].clamp(0.0, 1.0).tolist()

    def _count_truncated(self, ids: list[list[int]]) -> None:
        if self._max_length is None:
            return
        truncated = sum(len(text) > self._max_length for text in ids)
        self.truncated += truncated
        if truncated and not self._warned:
            self._warned = True
            warnings.warn(
                f"oracle {self.name!r} read only the first {self._max_length} tokens of {truncated} of {len(ids)} "
                "texts; further ones are counted, not warned of",
                stacklevel=4,
            )


def _index_of(label: str, config: PretrainedConfig, model: str) -> int:
    labels: dict[int, str] = {int(i): str(known) for i, known in (config.id2label or {}).items()}
    if config.problem_type == "regression":
        raise OracleError(f"the classifier {model!r} is a regression model: its output is not a probability")
    matching = [i for i, known in labels.items() if known == label] or [
        i for i, known in labels.items() if known.casefold() == label.casefold()
    ]
    if len(matching) != 1:
        listed = ", ".join(repr(labels[i]) for i in sorted(labels))
        raise OracleError(f"the classifier {model!r} has no label {label!r}; its labels are {listed}")
    return matching[0]


def _is_sigmoid(config: PretrainedConfig) -> bool:
    if config.problem_type is not None:
        return bool(config.problem_type == MULTI_LABEL)
    return bool(config.num_labels == 1)  # a single logit can only be compared with itself


def _limit(asked: int | None, of_tokenizer: int, config: PretrainedConfig) -> int | None:
    """The least of the lengths that are stated, None where none is."""
    of_model = getattr(config, "max_position_embeddings", None)
    stated = [length for length in (asked, of_tokenizer, of_model) if length is not None and length < _NO_LIMIT]
    return min(stated, default=None)


def fingerprint(model: str | Path, config: PretrainedConfig) -> object:
    """What tells these weights from others: the hub's commit, or for a folder the digests of its files."""
    folder = Path(model)
    if folder.is_dir():
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.txt")])
        return {file.name: sha256_of(file) for file in files}
    return [str(model), getattr(config, "_commit_hash", None)]
