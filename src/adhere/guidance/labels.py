"""Ask the oracles about outputs, and about their prefixes where that tells where a violation happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from adhere.functional.nado import violated_from
from adhere.guidance.constraint import Constraint
from adhere.oracles.base import Oracle, judge
from adhere.records import Verdict


def label(
    constraints: Sequence[Constraint],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    outputs: Sequence[str],
    output_ids: Sequence[Sequence[int]],
) -> list[dict[str, Verdict]]:
    """The verdict of every constraint on every output.

    Args:
        constraints: whose oracles are asked, one call each for the outputs and, if prefix-closed, one for the prefixes.
        prompts, outputs: the texts.
        output_ids: the outputs' tokens, whose prefixes are decoded for prefix-closed oracles.

    Raises:
        OracleError: an oracle broke its contract.
    """
    labelled: list[dict[str, Verdict]] = [{} for _ in outputs]
    for constraint in constraints:
        scores = judge(constraint.oracle, prompts, outputs)
        prefix_scores: Sequence[tuple[float, ...] | None] = [None] * len(outputs)
        if constraint.oracle.prefix_closed:
            prefix_scores = _prefix_scores(constraint.oracle, tokenizer, prompts, output_ids, scores)
        for row, score in enumerate(scores):
            labelled[row][constraint.name] = Verdict(score, prefix_scores[row])
    return labelled


def violations(verdicts: Sequence[Mapping[str, Verdict]], constraints: Sequence[Constraint]) -> tuple[Tensor, Tensor]:
    """Which token makes an output violate for good, and the output's score.

    Known only of outputs that violate a prefix-closed oracle.

    Args:
        verdicts: of B outputs, by constraint.
        constraints: K of them, in the order of the columns.

    Returns:
        the place of that token in the output, −1 where it is not known (or violates without any), long [B, K]; the
        score, 1 where the token is not known, float [B, K].
    """
    at_BK, score_BK = torch.full((len(verdicts), len(constraints)), -1), torch.ones(len(verdicts), len(constraints))
    for row, said in enumerate(verdicts):
        for number, constraint in enumerate(constraints):
            verdict = said.get(constraint.name)
            if verdict is not None and verdict.score is not None and verdict.prefix_scores is not None:
                at_BK[row, number] = violated_from(verdict.prefix_scores) - 1
                score_BK[row, number] = verdict.score
    return at_BK, score_BK


def _prefix_scores(
    oracle: Oracle,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    output_ids: Sequence[Sequence[int]],
    scores: Sequence[float | None],
) -> list[tuple[float, ...] | None]:
    """Scores of the text after 0, 1, …, N output tokens, the last one being the output's own score.

    Only outputs that violate are asked about: in the others no prefix of a prefix-closed oracle is settled.
    """
    asked: dict[tuple[str, str], None] = {}
    texts: list[list[tuple[str, str]] | None] = []
    for prompt, ids, score in zip(prompts, output_ids, scores, strict=True):
        if score is None or score >= 0.5:
            texts.append(None)
            continue
        prefixes = tokenizer.batch_decode(
            [list(ids[:end]) for end in range(len(ids))], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        keys = [(prompt if oracle.judges_prompt else "", prefix) for prefix in prefixes]
        asked.update(dict.fromkeys(keys))
        texts.append(keys)
    pairs = list(asked)
    verdicts = dict(zip(pairs, judge(oracle, [p for p, _ in pairs], [o for _, o in pairs]), strict=True))
    found: list[tuple[float, ...] | None] = []
    for row, score in zip(texts, scores, strict=True):
        if row is None or score is None:
            found.append(None)
        else:
            # A prefix without a verdict settles nothing: it counts as still satisfied.
            found.append((*(1.0 if (v := verdicts[key]) is None else v for key in row), score))
    return found
