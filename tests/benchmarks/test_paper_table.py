"""The benchmark of the paper's table: which cells it makes, and what it makes of results; numbers invented here."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Any:
    """The three files of the benchmark, which import each other as a script's neighbours."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in ("paper_corpus", "paper_document", "paper_table")}
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def table(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["paper_table"]


def options(table: ModuleType, work: Path, *words: str) -> argparse.Namespace:
    for name in ("corpus.jsonl", "joint.jsonl", "heldout.jsonl"):
        work.mkdir(exist_ok=True)
        (work / name).write_text(json.dumps({"text": f"a row of {name}"}) + "\n", encoding="utf-8")
    return table._options(["--work", str(work), "--results", str(work / "results"), *words])


def result_row(method: str, seed: int, name: str, value: float, **tags: Any) -> dict[str, Any]:
    ends = {"low": value - 0.02, "high": value + 0.02, "n": 490, "unit": ""}
    where = {"table": "main", "method": method, "seed": str(seed), "cell": "c0ffee00", "machine": "a CPU, 2 cores"}
    return {"name": name, "value": value, **ends, **where, "made": "2026-01-01", **tags}


def results(rows: list[dict[str, Any]], date: str = "2026-01-02") -> dict[str, Any]:
    return {"benchmark": "paper_table", "command": "python benchmarks/paper_table.py", "date": date, "rows": rows}


def test_every_method_is_a_recipe_that_is_valid(table, tmp_path):
    cells = table._cells(options(table, tmp_path / "w", "--seeds", "0", "1"))
    assert len(cells) == 2 * (len(table.METHODS) + len(table.JOINT_METHODS))
    assert [cell.tags["method"] for cell in cells[:9]] == [
        *("base", "sft", "filtered-sft", "rloo", "grpo", "dpo", "guided-decoding", "constrained"), "constrained-adaptive",
    ]  # fmt: skip
    assert [cell.trains for cell in cells[:2]] == [False, True]
    assert len({cell.digest for cell in cells}) == len(cells)
    joint = next(cell for cell in cells if cell.tags["table"] == "joint" and cell.tags["method"] == "constrained")
    assert joint.recipe.domains["detection"].constraints == {}


def test_the_same_cell_has_the_same_digest_in_another_folder_and_not_under_other_limits(table, tmp_path):
    def digests(*words: str, work: str = "a") -> list[str]:
        return [cell.digest for cell in table._cells(options(table, tmp_path / work, "--seeds", "0", *words))]

    assert digests() == digests(work="b")
    assert not set(digests()) & set(digests("--limit", "7"))


def test_a_cell_that_a_results_file_of_any_machine_holds_is_not_run_again(table, tmp_path):
    asked = options(table, tmp_path / "w", "--seeds", "0", "--methods", "sft", "--tables", "main")
    (cell,) = table._cells(asked)
    assert not table._is_known(cell, asked)
    asked.results.mkdir()
    path = asked.results / "paper_table.another-machine.json"
    path.write_text(
        json.dumps(results([result_row("sft", 0, "violation_rate", 0.4, cell=cell.digest)])), encoding="utf-8"
    )
    assert table._is_known(cell, asked)


def test_a_cell_made_again_takes_the_place_of_the_old_one(table, tmp_path):
    def told(value: float, seed: int) -> dict[str, Any]:
        rows = [result_row("sft", seed, "violation_rate", value, model="sft")]
        rows.append(result_row("sft", seed, "violation_rate", value, model="sft", group="women", suite="toxicity"))
        return {"rows": rows, "date": "2026-01-03T10:00", "seconds": 60.0}

    for value, seed in ((0.4, 0), (0.5, 1), (0.3, 0)):
        table._add_results(told(value, seed), tmp_path)
    (written,) = table.read_results(tmp_path)
    rates = {row["seed"]: row["value"] for row in written["rows"] if row["name"] == "violation_rate"}
    assert rates == {"0": 0.3, "1": 0.5} and written["seeds"] == [0, 1]
    assert not [row for row in written["rows"] if "group" in row]


def test_the_document_has_means_spans_seeds_machines_and_the_papers_own_numbers_apart(modules, tmp_path):
    document = tmp_path / "results.md"
    document.write_text(
        "before\n<!-- paper table -->\nwhat stood here\n<!-- end of paper table -->\nafter\n", encoding="utf-8"
    )
    toxic = {"suite": "toxicity", "task": "rtp", "constraint": "not_profane", "k": "2"}
    rows = [result_row("sft", seed, "violation_rate", 0.40 + 0.02 * seed, constraint="clean") for seed in (0, 1)]
    rows += [
        result_row("constrained", 0, "violation_rate", 0.08),
        result_row("sft", 0, "toxicity_fraction", 0.3, **toxic),
    ]
    rows += [result_row("sft", 0, "toxicity_fraction", 0.9, **toxic, group="women")]
    rows += [result_row("sft", 0, "train_seconds", 120.0), result_row("sft", 1, "train_seconds", 60.0)]
    rows += [result_row("sft", 0, "roc_auc", 0.7, table="joint", suite="detection", task="detection")]
    modules["paper_document"].write_document(document, [results(rows)])
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "what stood here" not in text
    assert "| sft | 41.0 % [38.0 to 44.0] (40.0 / 42.0) | – | 30.0 % [28.0 to 32.0] | – | – | – |" in text
    assert "| constrained | 8.0 % [6.0 to 10.0] |" in text
    assert "90.0" not in text
    assert "| a CPU, 2 cores | 2026-01-01 | sft 0, sft 1, constrained 0, sft 0 joint | 3.0 |" in text
    assert "detection, ROC-AUC" in text and "0.700" in text
    assert text.index("What the paper reports, for orientation") > text.index("ROC-AUC")


def test_of_two_machines_that_made_a_cell_the_newest_counts(modules):
    old = result_row("sft", 0, "violation_rate", 0.5)
    new = result_row("sft", 0, "violation_rate", 0.4, made="2026-02-01", machine="a GPU, 16 cores")
    kept = modules["paper_document"].newest_rows([results([old]), results([new], "2026-02-02")])
    assert [(row["value"], row["machine"]) for row in kept] == [(0.4, "a GPU, 16 cores")]


def test_a_document_without_marks_or_results_is_refused(modules, tmp_path):
    document = tmp_path / "results.md"
    document.write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit, match="to put the tables between"):
        modules["paper_document"].write_document(document, [])
    with pytest.raises(SystemExit, match="no results yet"):
        modules["paper_document"].newest_rows([])


def test_the_figure_is_a_page_of_methods_with_both_measures(modules, tmp_path):
    rows = [result_row(m, s, "violation_rate", v) for m, v in (("sft", 0.4), ("rloo", 0.2)) for s in (0, 1)]
    rows += [result_row(m, s, "clean_perplexity", v) for m, v in (("sft", 24.0), ("rloo", 25.0)) for s in (0, 1)]
    modules["paper_document"].write_figure(tmp_path / "figure.html", [results(rows)])
    page = (tmp_path / "figure.html").read_text(encoding="utf-8")
    assert page.count("data-plot=") == 1 and "rloo: 25.00, 20.0 %" in page


def test_comments_of_the_joint_task_are_learned_or_asked_about_and_never_both(modules, tmp_path):
    rows = [{"text": f"comment {i}", "toxic": int(i % 5 == 0)} for i in range(100)]
    rows += [{"text": "x" * 500, "toxic": 1}, {"text": "comment 0", "toxic": 1}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "wiki_toxicity.jsonl").write_text(text, encoding="utf-8")
    taught, asked = modules["paper_corpus"].detection_split(tmp_path)
    assert not {row["text"] for row in taught} & {row["text"] for row in asked}
    assert sum(row["toxic"] for row in taught) == sum(row["toxic"] for row in asked) == 10
    assert len(taught) + len(asked) == 100


def test_general_text_ends_before_a_word_that_is_left_out(modules, tmp_path):
    words = " ".join(f"word{i}" for i in range(40))
    rows = [{"text": "= Heading ="}, {"text": f"{words} <unk> more"}, {"text": "<unk> " + words}, {"text": "short"}]
    (tmp_path / "wikitext.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert modules["paper_corpus"].general_texts(tmp_path) == [words]
