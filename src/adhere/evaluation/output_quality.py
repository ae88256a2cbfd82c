"""The suite `quality`: how well a model writes on held-out prompts, as far as other models and simple counts can tell.

Perplexity of its outputs under another model (fluency by that model's lights: dull text has a low one too), distinct-n,
MAUVE against held-out text where the package is installed, and the win rate against another model by a referee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

from adhere.data.tokenization import encode_prompts
from adhere.errors import CorpusError
from adhere.evaluation.intervals import Floats
from adhere.evaluation.perplexity import ScoredSequence, perplexity, token_losses
from adhere.evaluation.quality import Outputs, distinct_n, quality
from adhere.evaluation.referee import LocalReferee, Referee
from adhere.evaluation.subject import Progress, Subject, write
from adhere.evaluation.suite_files import SuiteResult
from adhere.evaluation.win_rate import win_rate
from adhere.models.frozen import hidden_states
from adhere.records import Measurement, Sample
from adhere.sampling.sampler import SamplingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAUVE_LEAST = 100
"""Fewer texts on a side than this make a MAUVE of noise alone; thousands are better."""

_LONGEST = 256  # tokens of a text that is read for MAUVE
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Opponent:
    """Who a model's outputs are compared with: outputs for the same prompts, drawn with the same seed."""

    name: str
    samples: Sequence[Sample]


def quality_suite(
    subject: Subject,
    prompts: Sequence[str],
    human: Sequence[str],
    referees: Sequence[Referee],
    opponent: Opponent | None,
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    told: Progress,
) -> SuiteResult:
    """Sample held-out prompts and measure the outputs.

    Args:
        human: held-out texts that nobody generated and that satisfy the constraints, for MAUVE.
        referees: other models; a local one also gives a perplexity, and what MAUVE reads texts with.
        opponent: whose outputs the referees compare with; None for no win rate.

    Returns:
        `distinct_1` to `distinct_3`, `repetition`, `looping`, `mean_length`, `empty_rate`; for each referee (tag
        `referee`) `output_perplexity`, `mauve` and `win_rate` (tag `against`), as far as they could be measured. The notes
        say what could not.

    Raises:
        CorpusError: there are no prompts. OracleError: a referee cannot be used.
    """
    if not prompts:
        raise CorpusError(
            "there are no held-out prompts to write on from: hold some of the corpus out (corpus.holdout)"
        )
    samples = write(subject, prompts, sampling, samples_per_prompt, seed, told, "sampling")
    outputs = _by_prompt(samples)
    measured = [*quality(outputs, seed), distinct_n(outputs, 1), distinct_n(outputs, 3)]
    notes, items = [], [_item(sample) for sample in samples]
    local = [referee for referee in referees if isinstance(referee, LocalReferee)]
    if not local:
        notes.append("output_perplexity and mauve were not measured: no other model was named (--referee MODEL)")
    for reader in local:
        told(f"perplexity under {reader.name}", 0, 0, "")
        measured += _perplexity(reader, samples, notes, seed)
        measured += _mauve(reader, human, samples, notes, told)
    if opponent is None:
        notes.append("win_rate was not measured: a model has none against itself (--against MODEL names another)")
    elif not referees:
        notes.append("win_rate was not measured: no referee was named (--referee MODEL or --referee NAME@URL)")
    else:
        for referee in referees:
            stage = f"comparing with {opponent.name}"
            rate, pairs = win_rate(
                referee,
                samples,
                opponent.samples,
                opponent.name,
                seed,
                lambda d, t, s=stage: told(s, d, t, ""),  # type: ignore[misc]
            )
            measured.append(rate)
            if int(rate.tags["ties"]) > rate.n / 2:
                notes.append(
                    f"{referee.name} changes its mind with the order in {rate.tags['ties']} of {rate.n} pairs (it prefers the "
                    f"first place {100 * float(rate.tags['first_place']):.0f} % of the time): its win rate says little"
                )
            items += pairs
    notes += [note for referee in referees for note in referee.notes]
    return SuiteResult(subject.name, "quality", tuple(measured), tuple(dict.fromkeys(notes)), tuple(items))


def output_perplexity(
    model: PreTrainedModel, tokenizer: object, samples: Sequence[Sample], name: str = "output_perplexity", seed: int = 0
) -> Measurement:
    """exp of the mean negative log-likelihood of the outputs' tokens after their prompts; empty outputs have none.

    The tokens are those of the reading model's own tokenizer.

    Raises:
        CorpusError: every output is empty. ModelError: the model's losses are not finite.
    """
    context = int(getattr(model.config, "max_position_embeddings", 0) or 1_000_000)
    written = [sample for sample in samples if sample.output.strip()]
    stems = encode_prompts(tokenizer, [sample.prompt for sample in written])  # type: ignore[arg-type]
    tails = tokenizer([sample.output for sample in written], add_special_tokens=False)["input_ids"] if written else []  # type: ignore[operator]
    sequences = []
    for stem, tail in zip(stems, tails, strict=True):
        kept = list(tail)[: context - 1]
        before = stem[-(context - len(kept)) :]
        sequences.append(ScoredSequence([*before, *kept], start=len(before)))
    measured = perplexity(token_losses(model, sequences), name, seed)
    return replace(measured, tags={**measured.tags, "empty": str(len(samples) - len(written))})


def _perplexity(reader: LocalReferee, samples: Sequence[Sample], notes: list[str], seed: int) -> list[Measurement]:
    try:
        measured = output_perplexity(reader.model, reader.tokenizer, samples, seed=seed)
    except CorpusError:
        notes.append("output_perplexity was not measured: every output is empty")
        return []
    return [replace(measured, tags={**measured.tags, "referee": reader.name})]


def _mauve(
    reader: LocalReferee, human: Sequence[str], samples: Sequence[Sample], notes: list[str], told: Progress
) -> list[Measurement]:
    """MAUVE (Pillutla et al. 2021) of outputs against held-out text, on the reader's last hidden states."""
    written = [sample.output for sample in samples if sample.output.strip()]
    human = [text for text in human if text.strip()]
    if find_spec("mauve") is None:
        notes.append("mauve was not measured: it is not installed (pip install mauve-text, under the GPL)")
        return []
    if min(len(written), len(human)) < MAUVE_LEAST:
        notes.append(
            f"mauve was not measured: it needs {MAUVE_LEAST} texts a side, and there are {len(written)} outputs and "
            f"{len(human)} held-out texts"
        )
        return []
    from mauve import compute_mauve

    told(f"mauve by {reader.name}", 0, 0, "")
    found = compute_mauve(
        p_features=_features(reader, human), q_features=_features(reader, written), verbose=False, seed=1
    )
    tags = {"referee": reader.name, "human": str(len(human)), "buckets": str(found.num_buckets)}
    return [Measurement("mauve", float(found.mauve), n=len(written), tags=tags)]


@torch.no_grad()
def _features(reader: LocalReferee, texts: Sequence[str]) -> Floats:
    """The last hidden state at the last token of each text, shape (texts, width)."""
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(row[:_LONGEST]) for row in encode_prompts(reader.tokenizer, list(texts))]
    features = []
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        input_ids_BT = pad_sequence(batch, batch_first=True).to(reader.model.device)
        mask_BT = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).to(reader.model.device)
        hidden_BTD = hidden_states(reader.model, input_ids_BT, mask_BT)
        ends_B = torch.tensor([len(row) - 1 for row in batch], device=hidden_BTD.device)
        features.append(hidden_BTD[torch.arange(len(batch), device=hidden_BTD.device), ends_B].float().cpu().numpy())
    return np.concatenate(features).astype(np.float64)


def _by_prompt(samples: Sequence[Sample]) -> Outputs:
    grouped: dict[int, list[str]] = {}
    for sample in samples:
        grouped.setdefault(sample.prompt_index, []).append(sample.output)
    return list(grouped.values())


def _item(sample: Sample) -> Mapping[str, object]:
    return {
        "task": "output",
        "prompt_index": sample.prompt_index,
        "replicate": sample.replicate,
        "prompt": sample.prompt,
        "output": sample.output,
    }
