"""What is held out never meets training.

Rows belong together when they share a text, a prompt, or the conversation they came from (`source`); what belongs
together goes to one side. So no text is on both sides, and the prompts that the model is evaluated on are none of those
it was trained on. Texts are compared without regard to case, white space and Unicode form.

Which group is held out is decided by a hash of its texts and the seed: neither the order of the rows nor, but for those
at the edge, what else is in the corpus changes it. Groups are taken in the order of their hashes while they fit, so
that the number held out is as asked, if not a group is larger than the whole of it.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adhere.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def holdout_split(examples: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split examples into those to learn and `round(fraction · n)`, at least one, that are held out.

    When prompts are shared by so many rows that nothing could be held out (all rows have the same prompt), only texts
    are kept apart, and a warning says so.

    Args:
        examples: columns `prompt`, `completion` and perhaps `source`.
        fraction: how much is held out, in [0, 1); 0 holds nothing out.
        seed: another seed holds out other rows.

    Returns:
        (train, heldout), rows in their old order.

    Raises:
        ValueError: `fraction` outside [0, 1).
        CorpusError: too few different texts to hold any out.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be in [0, 1), got {fraction} (corpus.holdout)")
    if fraction == 0:
        return examples, examples.select([])
    wanted = min(max(1, round(fraction * len(examples))), len(examples) - 1)
    pairs = _pairs(examples)
    texts = [normalised(prompt + completion) for prompt, completion in pairs]
    prompts = [normalised(prompt) or row for row, (prompt, _) in enumerate(pairs)]  # an empty one is no tie
    sources = examples["source"][:] if "source" in examples.column_names else range(len(examples))
    hashes = [hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest() for text in texts]
    held = _taken(_groups(texts, sources, prompts), hashes, wanted)
    if not held:
        held = _taken(_groups(texts, sources), hashes, wanted)
        if held:
            logger.warning(
                "held-out split: prompts are shared by too many rows; only texts are kept apart, not prompts"
            )
    if not held:
        raise CorpusError(
            f"the corpus has {len(set(texts)):,} different texts in {len(texts):,} rows: too few to hold "
            f"{fraction:g} of it out; give more, a file of its own (corpus.holdout: path), or 0"
        )
    return _parts(examples, held)


def without_texts_of(examples: Dataset, heldout: Dataset) -> Dataset:
    """The examples that share neither text nor prompt with `heldout` (an empty prompt is shared by nobody)."""
    texts = {normalised(prompt + completion) for prompt, completion in _pairs(heldout)}
    prompts = {normalised(prompt) for prompt, _ in _pairs(heldout)} - {""}
    shared = {
        row
        for row, (prompt, completion) in enumerate(_pairs(examples))
        if normalised(prompt) in prompts or normalised(prompt + completion) in texts
    }
    return _parts(examples, shared)[0]


def normalised(text: str) -> str:
    """What makes two texts the same: not case, white space or Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _pairs(examples: Dataset) -> list[tuple[str, str]]:
    return list(zip(examples["prompt"][:], examples["completion"][:], strict=True))


def _groups(*keys_of_rows: Sequence[Hashable]) -> list[list[int]]:
    """Rows that share a key of any kind, directly or by way of other rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(keys_of_rows[0])
    nodes: dict[tuple[int, Hashable], int] = {}  # after the rows, a node for each key
    for kind, keys in enumerate(keys_of_rows):
        for key in keys:
            nodes.setdefault((kind, key), count + len(nodes))
    rows = np.tile(np.arange(count), len(keys_of_rows))
    ends = np.array([nodes[kind, key] for kind, keys in enumerate(keys_of_rows) for key in keys])
    size = count + len(nodes)
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, ends)), shape=(size, size))
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(connected_components(graph, directed=False)[1][:count]):
        groups[int(label)].append(row)
    return list(groups.values())


def _taken(groups: list[list[int]], hashes: list[str], wanted: int) -> set[int]:
    taken: set[int] = set()
    for group in sorted(groups, key=lambda rows: min(hashes[row] for row in rows)):
        if len(taken) + len(group) <= wanted:
            taken.update(group)
    return taken


def _parts(examples: Dataset, held: set[int]) -> tuple[Dataset, Dataset]:
    train = [i for i in range(len(examples)) if i not in held]
    return examples.select(train), examples.select(sorted(held))
