"""Fit NADO to labelled sequences.

loss = CE of R at every prefix, as value and as next-token term, against TD(λ) targets
     + forward consistency at positions where the policy's distribution is known          (method.md §3)

B batch · N output tokens · D width of the language model · R rank
C positions where forward consistency is asked · K tokens that stand for the vocabulary there
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adhere.errors import GuidanceError
from adhere.functional.nado import forward_consistency, oracle_likelihood, td_targets
from adhere.guidance.average import WeightAverage
from adhere.guidance.config import FitConfig
from adhere.guidance.evidence import ReadEvidence, pad, with_verdict
from adhere.guidance.quality import fit_quality
from adhere.models.nado import Nado, NadoState


@dataclass(slots=True)
class FitResult:
    """A fitted NADO, its optimiser's state, and what was measured on the held-out share."""

    nado: Nado
    optimizer: dict[str, Tensor]
    quality: dict[str, float]


def fit(
    nado: Nado,
    optimizer_state: dict[str, Tensor] | None,
    evidence: Sequence[ReadEvidence],
    constraint: str,
    config: FitConfig,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Fit one constraint's NADO, going on from the weights and the optimiser it has.

    What is kept is a moving average of the weights, as it stood after the epoch that is best on the held-out share.

    Raises:
        GuidanceError: all labels are equal, so there is nothing to tell apart.
    """
    judged = with_verdict(evidence, constraint)
    labels = [_score(item, constraint) for item in judged]
    if not judged or max(labels) - min(labels) < 1e-6:
        raise GuidanceError(_nothing_to_learn(constraint, labels))
    train, held_out = _split(judged, config.held_out)
    device = next(nado.parameters()).device
    if optimizer_state is None:
        own = [item for item in judged if item.evidence.on_policy] or judged
        nado.start_at(_base_rate(own, constraint))
    optimizer = torch.optim.AdamW(nado.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    if optimizer_state is not None:
        load_optimizer(optimizer, optimizer_state)
    steps_a_epoch = math.ceil(len(train) / config.batch_size)
    total = steps_a_epoch * config.epochs
    best_loss, best = _held_out_loss(nado, held_out, constraint, config), copy.deepcopy(nado.state_dict())
    start_loss, best_epoch, step = best_loss, 0, 0
    average = WeightAverage(nado, config.averaging)
    for epoch in range(1, config.epochs + 1):
        nado.train()
        order = torch.randperm(len(train), generator=generator).tolist()
        for start in range(0, len(train), config.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _warm_cosine(step, total)
            loss = _loss(nado, [train[i] for i in order[start : start + config.batch_size]], constraint, config, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(nado.parameters(), 1.0)
            optimizer.step()
            average.update()
            step += 1
            if progress is not None:
                progress(step, total)
        with average.lent():
            held_out_loss = _held_out_loss(nado, held_out, constraint, config)
            if held_out_loss < best_loss:
                best_loss, best, best_epoch = held_out_loss, copy.deepcopy(nado.state_dict()), epoch
    nado.load_state_dict(best)
    of_policy = _of_policy(held_out, constraint)
    quality = fit_quality(*_predictions(nado, of_policy, constraint, config))
    quality |= {"held_out_loss": best_loss, "start_loss": start_loss, "best_epoch": float(best_epoch)}
    quality |= {"sequences": float(len(judged)), "base_rate": _base_rate(of_policy, constraint)}
    return FitResult(nado.eval(), optimizer_tensors(optimizer), quality)


@dataclass(slots=True)
class _Read:
    """A batch as NADO sees it: logits of R after 0 … N output tokens, as value and as next-token term."""

    state: NadoState
    value_BN: Tensor  # [B, N + 1]: after i = 0 … N output tokens
    next_BN: Tensor  # [B, N]: after i = 1 … N, told from the prefix before
    mask_BN: Tensor  # [B, N + 1], bool
    known_BN: Tensor  # [B, N + 1], bool: where the final label is an unbiased label of R
    on_policy_B: Tensor
    score_B: Tensor
    violated_from_B: Tensor
    weight_B: Tensor


def _read_batch(nado: Nado, items: Sequence[ReadEvidence], constraint: str, device: torch.device) -> _Read:
    tokens_BT, attention_BT = pad(items, device)
    if nado.reads_tokens:
        features = tokens_BT
    else:
        features = torch.nn.utils.rnn.pad_sequence([_features(item).to(device) for item in items], batch_first=True)
    state = nado(features, attention_BT)
    lengths = [len(item.evidence.output_ids) for item in items]
    prompt_B1 = torch.tensor([[len(item.evidence.prompt_ids)] for item in items], device=device)
    step_1N = torch.arange(max(lengths) + 1, device=device)[None]
    mask_BN = step_1N <= torch.tensor(lengths, device=device)[:, None]
    position_BN = (prompt_B1 - 1 + step_1N).clamp_max(tokens_BT.shape[1] - 1)
    value_BN = state.value_BT.gather(1, position_BN)
    next_BT = nado.logits_of(NadoState(state.value_BT[:, :-1], state.key_BTR[:, :-1]), tokens_BT[:, 1:])
    next_BN = next_BT.gather(1, position_BN[:, :-1].clamp_max(next_BT.shape[1] - 1))
    weight_B = torch.tensor([_importance(item) for item in items], device=device)
    violated_from_B = torch.tensor([item.evidence.violated_from(constraint) for item in items], device=device)
    length_B = torch.tensor(lengths, device=device)
    on_policy_B = torch.tensor([item.evidence.on_policy for item in items], device=device)
    finished_B = torch.tensor([item.evidence.finished for item in items], device=device)
    ended_BN = (step_1N == length_B[:, None]) & finished_B[:, None]
    settled_BN = (step_1N >= violated_from_B[:, None]) | ended_BN
    return _Read(
        state,
        value_BN,
        next_BN,
        mask_BN,
        mask_BN & (on_policy_B[:, None] | settled_BN),
        on_policy_B,
        torch.tensor([_score(item, constraint) for item in items], device=device),
        violated_from_B,
        weight_B,
    )


def _loss(
    nado: Nado, items: Sequence[ReadEvidence], constraint: str, config: FitConfig, device: torch.device
) -> Tensor:
    batch = _read_batch(nado, items, constraint, device)
    believed_BN = batch.value_BN.detach().sigmoid()
    mixed_BN = td_targets(batch.score_B, believed_BN, batch.violated_from_B, batch.mask_BN, config.td_lambda)
    # R is an expectation under the policy, and how a corpus row ends is not its doing: the row's clean prefixes have no
    # label. What holds whoever wrote it is the end, what is settled before, and that R told from the prefix before a token
    # is the value after it. The value at its clean prefixes comes from forward consistency.
    target_BN = torch.where(batch.on_policy_B[:, None], mixed_BN, batch.score_B[:, None])
    loss = oracle_likelihood(batch.value_BN, target_BN, batch.known_BN, batch.weight_B)
    after_BN = torch.where(batch.known_BN, target_BN, believed_BN)[:, 1:]
    loss = loss + oracle_likelihood(batch.next_BN, after_BN, batch.mask_BN[:, 1:], batch.weight_B)
    asked = [(row, item) for row, item in enumerate(items) if item.log_p_CK is not None]
    if not asked or config.consistency_weight == 0:
        return loss
    row_C = torch.tensor([row for row, item in asked for _ in item.asked_C], device=device)
    at_C = torch.tensor([position for _, item in asked for position in item.asked_C], device=device)
    log_p_CK = torch.cat([item.log_p_CK for _, item in asked if item.log_p_CK is not None]).to(device)
    tokens_CK = torch.cat([item.tokens_CK for _, item in asked if item.tokens_CK is not None]).to(device)
    value_C, key_CR = batch.state.value_BT[row_C, at_C], batch.state.key_BTR[row_C, at_C]
    logit_CK = nado.logits_among(value_C, key_CR, tokens_CK)  # the target of consistency: no gradient flows through it
    return loss + config.consistency_weight * forward_consistency(log_p_CK, logit_CK, value_C)


@torch.no_grad()
def _predictions(
    nado: Nado, items: Sequence[ReadEvidence], constraint: str, config: FitConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the final label is one of R: logit of R told from the prefix before, label, logit of the value, weight."""
    nado.eval()
    device = next(nado.parameters()).device
    next_N, score_N, value_N, weight_N = [], [], [], []
    items = sorted(items, key=lambda item: len(item.tokens))  # so that little is padded
    for start in range(0, len(items), config.batch_size):
        batch = _read_batch(nado, items[start : start + config.batch_size], constraint, device)
        mask_BN = batch.known_BN[:, 1:]
        next_N.append(batch.next_BN[mask_BN])
        value_N.append(batch.value_BN[:, 1:][mask_BN])
        score_N.append(batch.score_B[:, None].expand_as(mask_BN)[mask_BN])
        weight_N.append(batch.weight_B[:, None].expand_as(mask_BN)[mask_BN])
    return torch.cat(next_N).cpu(), torch.cat(score_N).cpu(), torch.cat(value_N).cpu(), torch.cat(weight_N).cpu()


def _held_out_loss(nado: Nado, items: Sequence[ReadEvidence], constraint: str, config: FitConfig) -> float:
    """Mean CE against the final labels where they are unbiased for R, whatever the TD mix."""
    next_N, score_N, value_N, weight_N = _predictions(nado, items, constraint, config)
    logits_N2, ones_N2 = torch.stack([next_N, value_N], 1), torch.ones(len(score_N), 2)
    # Weighed as the training loss is: otherwise truncated samples would stop the fit at what they say of themselves.
    return float(oracle_likelihood(logits_N2, score_N[:, None].expand_as(ones_N2), ones_N2, weight_N))


def _split(items: list[ReadEvidence], share: float) -> tuple[list[ReadEvidence], list[ReadEvidence]]:
    """Training and held-out sequences; on-policy and corpus rows each give their share.

    By a hash of the tokens: a corpus row that one iteration learned must not be held out in the next, whose NADO goes on
    from there, or early stopping would always stop at once.
    """
    train: list[ReadEvidence] = []
    held_out: list[ReadEvidence] = []
    for on_policy in (True, False):
        part = [item for item in items if item.evidence.on_policy == on_policy]
        part.sort(key=lambda item: hashlib.sha256(repr(item.tokens).encode()).digest())
        cut = math.ceil(len(part) * share) if len(part) > 1 else 0
        held_out += part[:cut]
        train += part[cut:]
    return train, held_out or train


def _of_policy(held_out: list[ReadEvidence], constraint: str) -> list[ReadEvidence]:
    """What the reported quality is measured on: the policy's own outputs, which NADO is to judge in training.

    ROC-AUC needs both kinds of them; where the held-out ones are all alike, the corpus rows are measured as well.
    """
    own = [item for item in held_out if item.evidence.on_policy]
    return own if len({_score(item, constraint) >= 0.5 for item in own}) == 2 else held_out


def _base_rate(items: Sequence[ReadEvidence], constraint: str) -> float:
    """Mean score, weighed by importance."""
    weights = [_importance(item) for item in items]
    return sum(w * _score(item, constraint) for w, item in zip(weights, items, strict=True)) / sum(weights)


def _importance(item: ReadEvidence) -> float:
    return math.exp(min(item.evidence.log_importance, math.log(10)))


def _score(item: ReadEvidence, constraint: str) -> float:
    score = item.evidence.verdicts[constraint].score
    assert score is not None
    return score


def _features(item: ReadEvidence) -> Tensor:
    assert item.features_TD is not None
    return item.features_TD


def _warm_cosine(step: int, total: int) -> float:
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _nothing_to_learn(constraint: str, labels: list[float]) -> str:
    if not labels:
        return (
            f"constraint {constraint!r}: no output has a verdict, so there is nothing to learn from; look at the oracle"
        )
    said = "satisfies" if labels[0] >= 0.5 else "violates"
    return (
        f"constraint {constraint!r}: every one of {len(labels)} labelled outputs {said} it (score {labels[0]:g}), so nothing "
        "tells good from bad. Check that the oracle reads the right way round (1 = satisfied); otherwise raise "
        "guidance.samples, add corpus rows of the other kind (nado_fit.corpus_rows), or use prompts that bring it out"
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, so that safetensors can hold it."""
    return {
        f"{index}.{name}": value.detach().clone()
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the state of `optimizer_tensors` back."""
    state = optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value.clone()  # stepping changes it in place
    optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
