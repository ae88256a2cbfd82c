"""Safety models that write their verdict, as an oracle that reads its probability instead of drawing it.

For all answers that a model may give, the log-probability of the whole answer is summed up over those that mean a
violation and over those that do not; the score is the share of the latter. So an answer is never parsed, and one that the
model would give in 60 % of cases counts for 0.6.

    B rows · T tokens · V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adhere.errors import ModelError, OracleError
from adhere.oracles.base import Oracle
from adhere.oracles.classifier import fingerprint
from adhere.oracles.presets import GUARDS, Guard, GuardPreset
from adhere.oracles.spending import Spending
from adhere.oracles.version import version_of

if TYPE_CHECKING:
    import torch

LEAST_MASS = 0.05
"""Probability that all known answers together must have; below, the model was not asked the way it was trained to be."""
_NO_LIMIT = 1_000_000  # tokenizers that state no limit state an absurd one


class GuardOracle(Oracle):
    """Satisfied when a safety model finds the output safe.

    Args:
        preset: how it is asked and how its answers are read.
        model: folder or hub name of another size or a copy; without it, the preset's. Weights in safetensors only, no code
            of the repository is run.
        policy: the rule in words, for a preset whose prompt has a place for it.
        judges_prompt: show it the prompt as what the user asked.
        threshold: probability of a violation above which there is one; the score is 0 or 1.
        soft: the score is the probability itself.
        batch_size: texts at a time.
        max_length: tokens of prompt and text; a longer one gets no verdict, since its end would be cut off. Without it,
            what the model can take.
        device: such as "cuda:0"; without it the first GPU if there is one.
        dtype: of the weights.
        prefix_closed: state it when a violating text stays violating however it goes on.
        name: what messages, files and tables call it; without it, the model's name.

    Raises:
        ModelError: the model cannot be loaded, or brings no chat template where the preset needs one.
        OracleError: a policy is missing, or given where there is no place for it.
    """

    def __init__(
        self,
        preset: GuardPreset,
        *,
        model: str | Path | None = None,
        policy: str | None = None,
        judges_prompt: bool = True,
        threshold: float = 0.5,
        soft: bool = False,
        batch_size: int = 8,
        max_length: int | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        prefix_closed: bool = False,
        name: str | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if preset not in GUARDS:
            raise OracleError(f"preset must be one of {', '.join(GUARDS)}, got {preset!r}")
        self._guard: Guard = GUARDS[preset]
        path = model or self._guard.model
        self.name = name or Path(path).name
        if self._guard.needs_policy != (policy is not None):
            needs = "needs a policy, the rule in words" if self._guard.needs_policy else "has no place for a policy"
            raise OracleError(f"oracle {self.name!r}: the preset {preset} {needs}")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            self._model = AutoModelForCausalLM.from_pretrained(
                path, trust_remote_code=False, use_safetensors=True, dtype=getattr(torch, dtype)
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the safety model {str(path)!r} cannot be loaded: {error} (some ask you to accept their terms on the hub "
                "first, and to log in)"
            ) from error
        if self._guard.template is None and not self._tokenizer.chat_template:
            raise ModelError(
                f"{str(path)!r} brings no chat template, which the preset {preset} needs; is it a copy of it?"
            )
        self._policy, self.judges_prompt, self.prefix_closed = policy, judges_prompt, prefix_closed
        self._threshold, self._soft, self._batch_size = threshold, soft, batch_size
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model.to(self._device).eval()  # type: ignore[arg-type]
        stated = getattr(self._model.config, "max_position_embeddings", None)
        lengths = [length for length in (max_length, stated, self._tokenizer.model_max_length) if length]
        self._max_length = min([length for length in lengths if length < _NO_LIMIT], default=None)
        self.spending = Spending()
        self._least_mass = LEAST_MASS
        self._too_long = self._other = 0
        self.version = version_of(
            weights=fingerprint(path, self._model.config),
            settings=[preset, policy, judges_prompt, threshold, soft, self._max_length, dtype],
        )

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        pairs = [
            (self._plain(p) if self.judges_prompt else "", self._plain(o))
            for p, o in zip(prompts, outputs, strict=True)
        ]
        unique = list(dict.fromkeys(pairs))
        asked = {pair: answers for pair in unique if (answers := self._answers(*pair)) is not None}
        self._too_long += len(unique) - len(asked)
        log_p = self._log_probabilities([answer for answers in asked.values() for answer in answers])
        found = {pair: self._score([log_p[answer] for answer in answers]) for pair, answers in asked.items()}
        self.spending.calls_made += len(asked)
        missing = sum(found.get(pair) is None for pair in unique)
        self.spending.answered += len(unique) - missing
        self.spending.no_verdict += missing
        return [found.get(pair) for pair in pairs]

    def trouble(self) -> str:
        counted = {"too long for the model": self._too_long, "another answer than any known": self._other}
        told = ", ".join(f"{count} × {reason}" for reason, count in counted.items() if count)
        return f"{self.name}: {told}" if told else ""

    def _answers(self, prompt: str, output: str) -> list[_Answer] | None:
        """All that the model may answer, in the order of the preset; None where one is longer than the model can take."""
        start = self._prompt(prompt, output)
        start_ids = self._encoded(start)
        answers = []
        for answer in (*self._guard.violating, *self._guard.satisfying):
            # Together, as the model saw them in training: a word on its own may be other tokens.
            ids = self._encoded(start + answer)
            if self._max_length is not None and len(ids) > self._max_length:
                return None
            pairs = zip(ids[:-1], start_ids, strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            answers.append(_Answer(tuple(ids), max(1, shared)))
        return answers

    def _prompt(self, prompt: str, output: str) -> str:
        if self._guard.template is not None:
            # Not by str.format: a text may hold braces.
            before, _, rest = self._guard.template.partition("{prompt}")
            between, _, after = rest.partition("{output}")
            return before + prompt + between + output + after
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
        more: dict[str, Any] = {"guideline": self._policy} if self._policy is not None else {}
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **more))

    def _plain(self, text: str) -> str:
        """The text without half surrogate pairs, and without what the tokenizer would read as a mark of its own."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        for token in self._tokenizer.all_special_tokens:
            text = text.replace(token, " ".join(token))
        return text

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _log_probabilities(self, answers: Sequence[_Answer]) -> dict[_Answer, float]:
        """Log-probability of each answer, given the prompt before it.

        Answers that differ in their last token alone share a row.
        """
        import torch

        by_stem: dict[tuple[int, ...], list[_Answer]] = {}
        for answer in answers:
            by_stem.setdefault(answer.ids[:-1], []).append(answer)
        stems = sorted(by_stem, key=len)
        found: dict[_Answer, float] = {}
        for start in range(0, len(stems), self._batch_size):
            part = stems[start : start + self._batch_size]
            lengths = torch.tensor([[len(stem)] for stem in part])
            tokens_BT = torch.nn.utils.rnn.pad_sequence([torch.tensor(stem) for stem in part], batch_first=True)
            mask_BT = (torch.arange(tokens_BT.shape[1]) < lengths).long()
            with torch.inference_mode():
                inputs = {"input_ids": tokens_BT.to(self._device), "attention_mask": mask_BT.to(self._device)}
                logits_BTV: torch.Tensor = self._model(**inputs).logits
            for logits_TV, stem in zip(logits_BTV, part, strict=True):
                for answer in by_stem[stem]:
                    written = torch.tensor(answer.ids[answer.start :], device=logits_TV.device)
                    log_p_TV = logits_TV[answer.start - 1 : len(stem)].float().log_softmax(-1)
                    found[answer] = float(log_p_TV.gather(-1, written[:, None]).sum())
        return found

    def _score(self, log_p: Sequence[float]) -> float | None:
        split = len(self._guard.violating)
        violating, satisfying = (sum(map(math.exp, part)) for part in (log_p[:split], log_p[split:]))
        if not violating + satisfying >= self._least_mass:  # NaN too
            self._other += 1
            return None
        kept = satisfying / (violating + satisfying)
        return kept if self._soft else float(1.0 - kept <= self._threshold)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Tokens of a prompt with an answer, which begins at `start`."""

    ids: tuple[int, ...]
    start: int
