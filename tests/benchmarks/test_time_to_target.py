"""The benchmark of reaching a violation rate: when it is reached, who is compared with whom, a real run of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def _points(*rates: float, corpus: float = 100.0) -> list[dict[str, float]]:
    return [
        {
            "step": 5.0 * n,
            "minutes": 1.0 * n,
            "tokens": 100.0 * n,
            "oracle_calls": 10.0 * n,
            "rate": rate,
            "low": rate,
            "high": rate,
            "n": 50.0,
            "corpus_perplexity": corpus,
        }
        for n, rate in enumerate(rates, 1)
    ]


@pytest.mark.parametrize(
    ("rates", "step"),
    [
        ((0.4, 0.1, 0.1), 10),
        ((0.4, 0.1, 0.3, 0.1, 0.05), 20),
        ((0.4, 0.3, 0.1), 15),
        ((0.1, 0.4), None),
        ((0.2,), None),
    ],
)
def test_the_target_is_reached_by_two_measurements_in_a_row_or_by_the_last(
    script: Any, rates: tuple[float, ...], step: int | None
) -> None:
    point = script("violation_curve").reached(_points(*rates), 0.1)
    assert (None if point is None else point["step"]) == step


def test_a_model_that_has_forgotten_the_corpus_is_not_there(script: Any) -> None:
    curve = script("violation_curve")
    points = [*_points(0.05, 0.05, corpus=150.0), *_points(0.05, 0.05, 0.05)[2:]]
    assert curve.reached(points, 0.1)["step"] == 5 and curve.reached(points, 0.1, 110.0)["step"] == 15
    assert curve.reached(points, 0.1, 90.0) is None


def test_measuring_after_a_stage_is_not_taken_off_the_next_ones_minutes(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("violation_curve")
    curve = object.__new__(module.Curve)
    curve.points, curve._before, curve._every = [{"step": 10.0}], 0.0, 10
    curve.of_stage(0, stops=False)
    curve._measuring = 3.0  # of the measurement at step 10

    def measure(model: Any, step: int, seconds: float) -> None:
        curve.points.append({"step": float(step)})
        curve._measuring += 100.0

    monkeypatch.setattr(curve, "measure", measure)
    trainer = SimpleNamespace(model=None, state=SimpleNamespace(global_step=15))
    curve.end_stage(trainer, 63.0)
    assert [point["step"] for point in curve.points] == [10, 15] and curve._before == 60.0


def _compared(bench: Any, cells: dict[Any, list[dict[str, float]]]) -> list[dict[str, Any]]:
    found = {cell: {"points": points} for cell, points in cells.items()}
    rows: list[dict[str, Any]] = bench.rows_of(found, 0.1, 1.1, 5)  # 5 steps, one measurement, are on the corpus
    return rows


def _ratios(rows: list[dict[str, Any]], kind: str) -> dict[str, tuple[float, str]]:
    return {row["name"]: (row["value"], row["bound"]) for row in rows if "bound" in row and row["kind"] == kind}


def test_ours_is_compared_with_the_quickest_learning_rate_of_each_rival(script: Any, tmp_path: Path) -> None:
    bench = script("time_to_target")
    rows = _compared(
        bench,
        {
            bench.Cell("constrained", None, 0): _points(0.05, 0.05, 0.08),  # its early points do not count
            bench.Cell("rloo", 1e-5, 0): _points(0.05, 0.4, 0.4, 0.4),  # what it has not begun yet does not, either
            bench.Cell("rloo", 3e-5, 0): _points(0.4, 0.4, 0.4, 0.4, 0.4, 0.1),
            bench.Cell("rloo", 1e-4, 0): [*_points(0.4), *_points(0.4, 0.1, 0.1, 0.1, corpus=150.0)[1:]],  # forgot it
            bench.Cell("grpo", 1e-5, 0): _points(0.4, 0.4, 0.4, 0.4),
        },
    )
    with_corpus, alone = _ratios(rows, "with the corpus"), _ratios(rows, "violations alone")
    assert with_corpus["minutes_over_rloo"] == (3 / 6, "exact") and with_corpus["tokens_over_grpo"] == (
        3 / 4,
        "at most",
    )
    assert alone["minutes_over_rloo"] == (3 / 2, "exact")
    told = {"rows": rows, "machine": {"cpu": "c", "cores": 1}, "command": "x", "date": "2026-01-01"}
    table = bench.table(told, tmp_path / "r.json")
    assert "| rloo, 1e-05 | 0 | not reached in 4.0 |" in table and "| minutes over grpo | ≤ 0.750 |" in table
    assert "| rloo, 0.0001 | 0 | not reached in 4.0 | 400 | 40 | 1.50 |" in table
    assert "| rloo, 0.0001 | 0 | 2.0 | 200 | 20 | 1.50 |" in table
    script("violation_curve").curve_figure(tmp_path / "figure.html", rows)
    assert "rloo, 3e-05, seed 0" in (tmp_path / "figure.html").read_text(encoding="utf-8")


def test_where_ours_has_not_reached_it_there_is_no_ratio(script: Any) -> None:
    bench = script("time_to_target")
    for ours in (_points(0.05, 0.3), _points(0.05, 0.05, corpus=150.0)):
        rows = _compared(
            bench, {bench.Cell("constrained", None, 0): ours, bench.Cell("rloo", 1e-5, 0): _points(0.4, 0.1)}
        )
        assert not _ratios(rows, "with the corpus")


def test_each_method_is_trained_measured_and_not_run_again(
    script: Any, tmp_path: Path, recipe_file: Path, capsys: Any
) -> None:
    pytest.importorskip("trl")
    words = [
        "--quick",
        "--methods",
        "rloo",
        "--recipe",
        str(recipe_file),
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path),
    ]
    bench = script("time_to_target")
    bench.main(words)
    (path,) = tmp_path.glob("time_to_target.*.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    curve = {
        way: [int(r["step"]) for r in rows if r["name"] == "violation_rate" and r["way"] == way]
        for way in ("constrained", "rloo, 1e-05")
    }
    assert curve["constrained"] == [1, 2] and curve["rloo, 1e-05"][:2] == [1, 2] and len(curve["rloo, 1e-05"]) > 2
    spent = [float(r["minutes"]) for r in rows if r["name"] == "violation_rate" and r["way"] == "rloo, 1e-05"]
    assert spent == sorted(spent) and spent[0] > 0
    calls = {r["way"]: r["value"] for r in rows if r["name"] == "oracle_calls_to_target"}
    assert calls["constrained"] > 0
    assert capsys.readouterr().err.count("...") == 2
    bench.main(words)
    assert "..." not in capsys.readouterr().err
