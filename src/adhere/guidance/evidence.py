"""What NADO is fitted on: labelled token sequences with everything the language models have to say about them.

The language models run once over the sequences; the epochs of the fit then touch the small model alone.

    B batch · T time · V vocabulary · D width of the language model · C positions where forward consistency is asked
    K tokens that stand for the vocabulary there
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adhere.functional.nado import violated_from
from adhere.guidance.likely_tokens import likely_tokens
from adhere.models.corpus_features import CorpusFeatures
from adhere.models.frozen import FrozenModel, hidden_states
from adhere.models.logits_at import logits_at
from adhere.records import LabelledSample, Verdict

LOGITS_AT_ONCE = 2**26
"""Numbers C·V in one pass of the policy; 256 MiB in float32."""

ASKED_OF_A_SEQUENCE = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """One sequence: a prompt, an output, and what the oracles said of it.

    `on_policy` is False for corpus rows: there R = C holds at the complete sequence whatever the policy, and the prefixes
    before learn from forward consistency alone. Where such a row was cut (`finished` is False), how it would have gone on
    is the policy's to say: its end is a prefix like the others.
    """

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    verdicts: dict[str, Verdict]
    log_importance: float = 0.0
    on_policy: bool = True
    finished: bool = True

    @property
    def tokens(self) -> tuple[int, ...]:
        """The whole sequence."""
        return self.prompt_ids + self.output_ids

    @classmethod
    def of(cls, labelled: LabelledSample) -> Evidence:
        """A sampled output as evidence."""
        sample = labelled.sample
        return cls(sample.prompt_ids, sample.output_ids, labelled.verdicts, sample.log_importance)

    def violated_from(self, constraint: str) -> int:
        """First prefix from which all longer ones violate; beyond the end when the output satisfies."""
        prefix_scores = self.verdicts[constraint].prefix_scores
        if prefix_scores is None:
            return len(self.output_ids) + 1
        return violated_from(prefix_scores)


def evidence_of(labelled: Sequence[LabelledSample]) -> list[Evidence]:
    """Sampled outputs as evidence, with importance weights that are 1 in the mean.

    So they stand on one scale with corpus rows, whose weight is 1: unnormalised, the weights of samples of a truncated
    policy are all below 1 (temperature above 1: most are far from it), and the corpus would drown them.
    """
    items = [Evidence.of(sample) for sample in labelled]
    log_importance_N = torch.tensor([item.log_importance for item in items], dtype=torch.float64)
    if not bool(log_importance_N.any()):
        return items
    shift = float(torch.logsumexp(log_importance_N, 0)) - math.log(len(items))
    return [replace(item, log_importance=item.log_importance - shift) for item in items]


@dataclass(slots=True)
class ReadEvidence:
    """Evidence with the hidden states of the frozen model, and the policy's next-token distribution at some positions."""

    evidence: Evidence
    features_TD: Tensor | None  # None for a NADO that reads tokens
    asked_C: list[int] = field(default_factory=list)
    tokens_CK: Tensor | None = None
    log_p_CK: Tensor | None = None  # their weights, which sum to 1 (`likely_tokens`)

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.evidence.tokens


def with_verdict(items: Sequence[ReadEvidence], constraint: str) -> list[ReadEvidence]:
    """Those that have a verdict, weighed so that leaving out the others shifts nothing.

    The judged outputs of a prompt take over the weight of those of its outputs that were not judged, so that every prompt
    with a verdict counts as it was sampled; the weights of all samples are then 1 in the mean again. Corpus rows keep
    theirs. Where nothing is missing, nothing changes.
    """
    kept = [item for item in items if item.evidence.verdicts[constraint].score is not None]
    own = [item for item in items if item.evidence.on_policy]
    judged = [item for item in kept if item.evidence.on_policy]
    if len(judged) == len(own):
        return kept
    drawn, left = (_weight_by_prompt(each) for each in (own, judged))
    taken_over = {prompt: math.log(drawn[prompt] / weight) for prompt, weight in left.items()}
    total = sum(drawn[prompt] for prompt in left)
    to_mean_1 = math.log(len(judged) / total) if judged else 0.0
    return [_weighed(i, taken_over[i.evidence.prompt_ids] + to_mean_1) if i.evidence.on_policy else i for i in kept]


def _weighed(item: ReadEvidence, more: float) -> ReadEvidence:
    if abs(more) < 1e-12:
        return item
    return replace(item, evidence=replace(item.evidence, log_importance=item.evidence.log_importance + more))


def _weight_by_prompt(items: Sequence[ReadEvidence]) -> dict[tuple[int, ...], float]:
    """The sum of the importance weights of each prompt's outputs."""
    weights: dict[tuple[int, ...], float] = {}
    for item in items:
        prompt = item.evidence.prompt_ids
        weights[prompt] = weights.get(prompt, 0.0) + math.exp(item.evidence.log_importance)
    return weights


def read(
    evidence: Sequence[Evidence],
    reference: FrozenModel | None,
    policy: PreTrainedModel,
    *,
    asked: int,
    generator: torch.Generator,
    corpus: CorpusFeatures | None = None,
    batch_size: int = 32,
) -> list[ReadEvidence]:
    """Run the frozen model over all sequences, and the policy over some.

    Args:
        reference: the frozen model NADO reads; None when it reads tokens.
        policy: the policy as it stands in this refresh (in inference dtype).
        asked: number of positions, over all sequences, where the policy's distribution is kept for forward consistency.
        generator: chooses those positions, and the tokens that stand for the vocabulary there.
        corpus: features of the corpus rows, which come again in every iteration while the frozen model stays the same;
            without it they are read here.

    Returns:
        in the order given.
    """
    done = [ReadEvidence(item, None) for item in evidence]
    if reference is not None:
        if corpus is None:
            corpus = CorpusFeatures(reference, [item.tokens for item in done if not item.evidence.on_policy])
        _read_features(done, reference, corpus, batch_size)
    wanted = max(1, asked // ASKED_OF_A_SEQUENCE) if asked else 0
    order = torch.randperm(len(done), generator=generator).tolist() if asked else []
    for index in order[:wanted]:
        item = done[index].evidence
        # Position P − 1 + i has seen i output tokens; the last output token has nothing after it.
        steps = torch.randperm(max(len(item.output_ids), 1), generator=generator)[:ASKED_OF_A_SEQUENCE].tolist()
        done[index].asked_C = [len(item.prompt_ids) - 1 + step for step in sorted(steps)]
    _read_distributions([item for item in done if item.asked_C], policy, generator, batch_size)
    return done


def _read_features(
    items: Sequence[ReadEvidence], reference: FrozenModel, corpus: CorpusFeatures, batch_size: int
) -> None:
    # Samples and corpus rows apart: whether the corpus is known already (not so after a resume) must not change what a
    # sample is batched with, since that changes its features' last bits.
    for part in _parts(_by_length([item for item in items if item.evidence.on_policy]), batch_size):
        with reference.lent() as model:
            features_BTD = hidden_states(model, *pad(part, model.device))
        for row, item in enumerate(part):
            item.features_TD = features_BTD[row, : len(item.tokens)].clone()
    for item in items:
        if not item.evidence.on_policy:
            item.features_TD = corpus.of(item.tokens)


@torch.no_grad()
def _read_distributions(
    items: Sequence[ReadEvidence], policy: PreTrainedModel, generator: torch.Generator, batch_size: int
) -> None:
    vocabulary = policy.get_input_embeddings().get_parameter("weight").shape[0]
    rows = max(1, min(batch_size, LOGITS_AT_ONCE // (ASKED_OF_A_SEQUENCE * vocabulary)))
    for part in _parts(_by_length(items), rows):
        row_C = torch.tensor([row for row, item in enumerate(part) for _ in item.asked_C], device=policy.device)
        position_C = torch.tensor([position for item in part for position in item.asked_C], device=policy.device)
        logits_CV = logits_at(policy, *pad(part, policy.device), row_C, position_C)
        tokens_CK, log_p_CK = likely_tokens(torch.log_softmax(logits_CV.float(), -1), generator)
        counts = [len(item.asked_C) for item in part]
        for item, tokens, log_p in zip(part, tokens_CK.split(counts), log_p_CK.split(counts), strict=True):
            item.tokens_CK, item.log_p_CK = tokens.clone(), log_p.clone()


def _by_length(items: Sequence[ReadEvidence]) -> list[ReadEvidence]:
    return sorted(items, key=lambda item: len(item.tokens))


def _parts(items: Sequence[ReadEvidence], size: int) -> list[Sequence[ReadEvidence]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def pad(items: Sequence[ReadEvidence], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask [B, T], padded on the right."""
    length = max(len(item.tokens) for item in items)
    tokens_BT = torch.zeros(len(items), length, dtype=torch.long)
    mask_BT = torch.zeros(len(items), length, dtype=torch.long)
    for row, item in enumerate(items):
        tokens_BT[row, : len(item.tokens)] = torch.tensor(item.tokens)
        mask_BT[row, : len(item.tokens)] = 1
    return tokens_BT.to(device), mask_BT.to(device)
