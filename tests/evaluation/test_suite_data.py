"""Rows of suites: where they are looked for, what is wrong with them, and which of them a limit leaves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adhere.errors import CorpusError, RecipeError
from adhere.evaluation.suite_data import Sources, digest, read_sources, read_task, subset
from adhere.evaluation.suite_tasks import TASKS


def _write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_named_file_comes_before_the_folder_and_the_folder_before_the_hub(tmp_path: Path) -> None:
    _write(tmp_path / "mc_piqa_dev.jsonl", {})
    sources = read_sources([str(tmp_path), "rtp=mine.jsonl"])
    assert sources.place_of("rtp") == "mine.jsonl"
    assert sources.place_of("piqa") == str(tmp_path / "mc_piqa_dev.jsonl")
    assert sources.place_of("toxigen") is None
    assert "has no toxigen*.jsonl" in sources.why_missing("toxigen")
    assert Sources().place_of("toxigen") == TASKS["toxigen"].hub
    assert Sources().place_of("identity") is None
    assert "--data identity=FILE" in Sources().why_missing("identity")


def test_two_files_that_could_be_meant_are_refused(tmp_path: Path) -> None:
    for name in ("rtp_a.jsonl", "rtp_b.jsonl"):
        _write(tmp_path / name, {})
    with pytest.raises(CorpusError, match=r"which is rtp: rtp_a\.jsonl, rtp_b\.jsonl"):
        Sources(tmp_path).place_of("rtp")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (["nowhere"], CorpusError, "no such folder"),
        (["pika=x.jsonl"], RecipeError, "did you mean piqa"),
        ([".", ".."], RecipeError, "two folders"),
    ],
)
def test_sources_that_cannot_be_are_refused(given: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read_sources(given)


def test_rows_are_read_under_the_names_that_their_columns_have(tmp_path: Path) -> None:
    file = _write(tmp_path / "d.jsonl", {"comment_text": "a", "label": 1, "x": 2}, {"text": "b", "toxic": 0})
    assert read_task("detection", str(file)) == [{"text": "a", "toxic": True}, {"text": "b", "toxic": False}]


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("piqa", {"question": "q", "label": 0}, r"line 2: no column choices: a row of piqa has question, choices, label"),
        ("piqa", {"question": "q", "choices": ["a", "b"], "label": 2}, "label 2 of 2 choices"),
        ("winogrande", {"contexts": ["a"], "continuation": "c", "label": 0}, "`contexts` must be a list of two"),
        ("toxigen", {"prompt": "p"}, "no column group"),
        ("rtp", {"prompt": {"toxicity": 1}}, "`prompt` must be a string"),
        ("detection", {"text": "t", "toxic": "maybe"}, "`toxic` must be 0 or 1"),
        ("xstest", {"prompt": "p", "label": "harmless"}, "`label` must be safe or unsafe"),
    ],
)  # fmt: skip
def test_a_row_that_lacks_a_column_or_has_an_impossible_value_is_named(
    tmp_path: Path, task: str, row: dict[str, Any], said: str
) -> None:
    good = {
        "piqa": {"question": "q", "choices": ["a", "b"], "label": 0},
        "winogrande": {"contexts": ["a", "b"], "continuation": "c", "label": 0},
        "toxigen": {"prompt": "p", "group": "g"},
        "rtp": {"prompt": "p"},
        "detection": {"text": "t", "toxic": 1},
        "xstest": {"prompt": "p", "label": "safe"},
    }[task]
    file = _write(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(CorpusError, match=said):
        read_task(task, str(file))


def test_pairs_that_do_not_differ_are_left_out_before_the_limit(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "text_identity_swapped": f"s{n}" if n % 2 else f"t{n}"} for n in range(10)]
    file = _write(tmp_path / "identity.jsonl", *rows)
    assert len(read_task("identity", str(file), limit=5)) == 5
    with pytest.raises(CorpusError, match="text and text_identity_swapped are equal in all 2 rows"):
        read_task("identity", str(_write(tmp_path / "same.jsonl", *[rows[0], rows[2]])))


def test_a_limit_draws_evenly_over_strata_and_the_same_rows_every_time() -> None:
    rows = [{"number": n, "label": "rare" if n % 10 == 0 else "usual"} for n in range(100)]
    chosen = subset(rows, 16, ("label",), seed=3)
    assert Counter(row["label"] for row in chosen) == {"rare": 8, "usual": 8}
    assert [row["number"] for row in chosen] == sorted(row["number"] for row in chosen)
    assert chosen == subset(rows, 16, ("label",), seed=3)
    assert chosen != subset(rows, 16, ("label",), seed=4)
    assert Counter(row["label"] for row in subset(rows, 30, ("label",))) == {"rare": 10, "usual": 20}
    assert subset(rows, 100) == subset(rows, None) == rows


def test_a_digest_tells_rows_from_others() -> None:
    assert digest([{"a": 1, "b": 2}]) == digest([{"b": 2, "a": 1}]) != digest([{"a": 1}])


def test_what_the_hub_cannot_give_says_to_name_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nlong trace")

    monkeypatch.setattr("datasets.get_dataset_split_names", unreachable)
    with pytest.raises(CorpusError, match=r"some/set cannot be loaded from the hub: no route\. .*--data rtp=FILE"):
        read_task("rtp", "some/set")


def test_rows_of_the_hub_are_read_by_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    asked: list[tuple[Any, ...]] = []

    def load(identity: str, configuration: str | None, split: str, streaming: bool) -> Any:
        asked.append((identity, configuration, split, streaming))
        rows = Dataset.from_list([{"prompt": {"text": f"p{n}"}} for n in range(50)])
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["first", "second"])
    assert len(read_task("rtp", "a/b:c:d")) == 50
    assert len(read_task("rtp", "a/b", limit=4)) == 4
    assert asked == [("a/b", "c", "d", False), ("a/b", None, "first", True)]
