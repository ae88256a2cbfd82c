"""Ask the oracles about outputs, and about their prefixes where that tells where a violation happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from adhere.functional.nado import violated_from
from adhere.guidance.constraint import Constraint
from adhere.oracles.again import judge_again
from adhere.oracles.base import Oracle, judge, violates
from adhere.oracles.spending import added, spending_of
from adhere.records import Verdict


def label(
    constraints: Sequence[Constraint],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    outputs: Sequence[str],
    output_ids: Sequence[Sequence[int]],
    spent: Counter[str] | None = None,
) -> list[dict[str, Verdict]]:
    """The verdict of every constraint on every output.

    Args:
        constraints: whose oracles are asked, one call each for the outputs and, if prefix-closed, one for the prefixes.
        prompts, outputs: the texts.
        output_ids: the outputs' tokens, whose prefixes are decoded for prefix-closed oracles.
        spent: gets what this cost added, by the names of `costs.Costs`.

    Raises:
        OracleError: an oracle broke its contract.
    """
    labelled: list[dict[str, Verdict]] = [{} for _ in outputs]
    spent = Counter() if spent is None else spent
    for constraint in constraints:
        before = spending_of(constraint.oracle)
        scores = judge(constraint.oracle, prompts, outputs)
        spent.update(oracle_calls=len(scores), no_verdict=scores.count(None))
        prefix_scores: Sequence[tuple[float, ...] | None] = [None] * len(outputs)
        if constraint.oracle.prefix_closed:
            prefix_scores = _prefix_scores(constraint.oracle, tokenizer, prompts, output_ids, scores, spent)
        for row, score in enumerate(scores):
            labelled[row][constraint.name] = Verdict(score, prefix_scores[row])
        spent.update(added(before, spending_of(constraint.oracle)))
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
    spent: Counter[str],
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
    if not asked:
        return [None] * len(texts)
    pairs = list(asked)
    spent.update(prefix_scores=len(pairs))
    asking = [prompt for prompt, _ in pairs], [prefix for _, prefix in pairs]
    said = judge_again(oracle, *asking, judge(oracle, *asking))
    verdicts = dict(zip(pairs, said, strict=True))
    found: list[tuple[float, ...] | None] = []
    for row, score in zip(texts, scores, strict=True):
        found.append(None if row is None or score is None else _completed([*(verdicts[key] for key in row), score]))
    return found


def _completed(scores: Sequence[float | None]) -> tuple[float, ...] | None:
    """Prefix scores without gaps; None where what is missing cannot be told.

    What violates goes on violating, so a gap after a violation is one too, and a gap before a satisfied prefix is satisfied.
    Between the last satisfied prefix and the first violating one nobody knows: such an output has no prefix scores, and
    learns from its own verdict alone.
    """
    found = list(scores)
    for place in range(1, len(found)):
        before = found[place - 1]
        if found[place] is None and before is not None and violates(before):
            found[place] = before
    for place in reversed(range(len(found) - 1)):
        after = found[place + 1]
        if found[place] is None and after is not None and not violates(after):
            found[place] = after
    known = [score for score in found if score is not None]
    return tuple(known) if len(known) == len(found) else None
