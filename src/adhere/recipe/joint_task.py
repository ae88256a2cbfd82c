"""`adhere joint`: a labelled file as rows that teach detection, mixed into a corpus where one is given.

This is the joint task of the paper: a model learns to write and to detect at once, and its writing alone is constrained.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from adhere.data.reading import read_rows
from adhere.data.rows import RowReader
from adhere.errors import CorpusError
from adhere.evaluation.detection import detection_rows
from adhere.evaluation.suite_data import read_task
from adhere.files import write_text_atomic


def write_detection_rows(
    labelled: str | Path,
    out: Path,
    corpus: Path | None = None,
    limit: int | None = None,
    prompt_words: int = 4,
    seed: int = 0,
) -> Counter[str]:
    """Write rows with `prompt`, `completion`, `domain` and `learn_prompt`, in an order drawn at random.

    Args:
        labelled: a file with `text` and `toxic` (0 or 1), or a data set of the hub. Keep what you evaluate on out of it.
        out: JSONL file, a corpus for a recipe; the rows of detection have the domain `detection`.
        corpus: rows to mix them into: `text` (cut after prompt_words words, and learned whole, as a recipe would), or
            `prompt` and `completion`.
        limit: rows of the labelled file at most, evenly of both labels.

    Returns:
        how many rows of each domain were written.

    Raises:
        CorpusError: a file cannot be read, lacks a column, or the corpus has conversations.
        RunFolderError: the file cannot be written.
    """
    rows: list[dict[str, Any]] = [] if corpus is None else _rows_of(corpus, prompt_words)
    rows += [
        {**row, "learn_prompt": False} for row in detection_rows(read_task("detection", str(labelled), limit, seed))
    ]
    random.Random(seed).shuffle(rows)
    write_text_atomic(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Counter(row["domain"] for row in rows)


def _rows_of(corpus: Path, prompt_words: int) -> list[dict[str, Any]]:
    found = list(read_rows(corpus))
    if found and "messages" in found[0][1]:
        raise CorpusError(
            f"{found[0][0]}: holds conversations, and rows of detection have another shape: make prompt and completion of "
            "them first, or train on both corpora one after the other"
        )
    reader = RowReader(prompt_words=prompt_words, skip_empty_rows=True)
    return [
        {
            "prompt": example.prompt,
            "completion": example.completion,
            "domain": example.domain,
            "learn_prompt": example.learn_prompt,
        }
        for _, example in reader.examples(found)
    ]
