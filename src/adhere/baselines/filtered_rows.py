"""The corpus without what violates: plain fine-tuning on it is the method `filtered-sft`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adhere.baselines.whole_outputs import on_whole_outputs
from adhere.errors import CorpusError
from adhere.guidance.constraint import Constraint
from adhere.oracles.base import violates
from adhere.training.corpus_labels import CorpusLabels

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def filtered_rows(
    rows: Dataset,
    constraints: Sequence[Constraint],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_without_verdict: float,
) -> Dataset:
    """The tokenised rows that satisfy every constraint, by the very oracles that other methods train with.

    A row on which an oracle gives no verdict is dropped too: nothing says that it satisfies. Verdicts are kept in
    `labels/corpus.jsonl` of the run folder, where a run that is resumed finds them.

    Raises:
        CorpusError: no row is left. OracleError: an oracle broke its contract.
        VerdictsMissingError: a larger share than `max_without_verdict` has no verdict.
    """
    labels = CorpusLabels(rows, on_whole_outputs(constraints), tokenizer, folder, max_without_verdict)
    verdicts = labels.verdicts()
    scores = [[verdict.score for verdict in verdicts[number].values()] for number in rows["row"]]
    kept = [place for place, of_row in enumerate(scores) if all(s is not None and not violates(s) for s in of_row)]
    if not kept:
        silent = sum(None in of_row for of_row in scores)
        raise CorpusError(
            f"filtered-sft: none of {len(rows)} corpus rows satisfies every constraint ({silent} are without a verdict), "
            "so nothing is left to learn; look at the oracle, or use another corpus or method"
        )
    return rows.select(kept)
