"""What the paper's table is trained and measured on, made once from the demo's corpus and a folder of data.

corpus.jsonl      the rows that the demo learns (domain `comments`), and paragraphs of general text (`general`)
heldout.jsonl     the rows that the demo holds out: every method is asked to go on from their beginnings
joint.jsonl       corpus.jsonl, and comments with the question whether they are toxic (`detection`)
detection.jsonl   comments with their labels that are in none of the others
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

CORPUS, HELDOUT, JOINT, DETECTION = "corpus.jsonl", "heldout.jsonl", "joint.jsonl", "detection.jsonl"
GENERAL_ROWS, GENERAL_WORDS = 250, 25
DETECTION_ROWS = 400  # that are learned
CHARACTERS = 400  # longest comment of the joint task, so that it fits beside its question


def demo_text() -> str:
    """The demo's recipe, which every cell is made from."""
    return files("adhere.recipe").joinpath("demo.yaml").read_text(encoding="utf-8")


def write_corpora(data: Path, work: Path, tuning: bool = False) -> None:
    """Write the files above into `work`; what is there already stays.

    Args:
        data: a folder with `wikitext*.jsonl` (column text) and a file of the suite `detection` (text, toxic).
        tuning: hold out rows that the demo learns instead of those it reports on, to choose settings by.
    """
    from adhere.data.corpus import load_corpus
    from adhere.models.embedded import embedded_corpus
    from adhere.recipe.joint_task import write_detection_rows
    from adhere.recipe.load import parse_recipe

    if all((work / name).exists() for name in (CORPUS, HELDOUT, JOINT, DETECTION)):
        return
    demo = parse_recipe(demo_text(), "demo.yaml", []).corpus.model_copy(update={"path": embedded_corpus()})
    found = load_corpus(demo)
    if tuning:
        _write(work / "learned.jsonl", ({"text": row["prompt"] + row["completion"]} for row in found.train))
        found = load_corpus(demo.model_copy(update={"path": work / "learned.jsonl"}))
    learned = [{"text": row["prompt"] + row["completion"], "domain": "comments"} for row in found.train]
    _write(work / HELDOUT, ({"text": row["prompt"] + row["completion"]} for row in found.heldout))
    rows = [*learned, *({"text": text, "domain": "general"} for text in general_texts(data))]
    random.Random(0).shuffle(rows)
    _write(work / CORPUS, rows)
    taught, asked = detection_split(data)
    _write(work / "taught.jsonl", taught)
    _write(work / DETECTION, asked)
    write_detection_rows(str(work / "taught.jsonl"), work / JOINT, work / CORPUS, prompt_words=demo.prompt_words)


def general_texts(data: Path) -> list[str]:
    """Paragraphs of general text as far as no word is left out (WikiText's <unk>): no headings, nothing short."""
    from adhere.data.reading import read_rows

    found = sorted(data.glob("wikitext*.jsonl"))
    if not found:
        raise SystemExit(
            f"{data} has no wikitext*.jsonl (column text): the domain `general` of the corpus is made from it"
        )
    texts = [str(row.get("text", "")).strip() for _, row in read_rows(found[0])]
    whole = [text.partition("<unk>")[0].strip() for text in texts if not text.startswith("=")]
    fitting = [text for text in whole if len(text.split()) >= GENERAL_WORDS]
    random.Random(0).shuffle(fitting)
    return fitting[:GENERAL_ROWS]


def detection_split(data: Path) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Labelled comments to learn the question by, and the others."""
    from adhere.evaluation.suite_data import read_sources, read_task

    place = read_sources([str(data)]).place_of("detection")
    if place is None:
        raise SystemExit(f"{data} has no file of the suite detection (text, toxic): the joint task is learned from it")
    rows = [row for row in read_task("detection", place) if len(row["text"]) <= CHARACTERS]
    rows = list({row["text"]: row for row in rows}.values())
    random.Random(0).shuffle(rows)
    taught: list[Mapping[str, Any]] = []
    asked: list[Mapping[str, Any]] = []
    for label in (True, False):  # half of each, at most
        mine = [_plain(row) for row in rows if bool(row["toxic"]) == label]
        cut = min(DETECTION_ROWS // 2, len(mine) // 2)
        taught, asked = taught + mine[:cut], asked + mine[cut:]
    return taught, asked


def _plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": row["text"], "toxic": int(row["toxic"])}


def _write(path: Path, rows: Iterable[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> None:
    from adhere.files import write_text_atomic

    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
