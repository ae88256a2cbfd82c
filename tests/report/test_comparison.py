"""The page of a comparison, of numbers invented here."""

from __future__ import annotations

import json
import re

import pytest

from adhere.errors import RecipeError
from adhere.evaluation.side_by_side import Comparison
from adhere.records import Measurement
from adhere.report.comparison import comparison_page, told
from adhere.report.contrast_tables import contrast_cell, difference_table, ratio_table, signed, told_p
from adhere.report.trade_off import trade_offs, utility_columns

RATES = {"sft": (0.40, 0.36, 0.45), "a:constrained": (0.08, 0.06, 0.11), "b:dpo": (0.20, 0.16, 0.24)}
PERPLEXITY = {"sft": 24.0, "a:constrained": 23.5, "b:dpo": 26.0}


def row(name: str, model: str, value: float, low: float | None, high: float | None, **tags: str) -> Measurement:
    return Measurement(name, value, low, high, n=490, tags={"model": model, **tags})


@pytest.fixture
def comparison() -> Comparison:
    measured = [row("violation_rate", m, *r, constraint="clean") for m, r in RATES.items()]
    measured += [row("judge_violation_rate", m, *r, judge="other") for m, r in RATES.items()]
    measured += [row("clean_perplexity", m, p, 0.9 * p, 1.1 * p) for m, p in PERPLEXITY.items()]
    measured += [row("mean_length", m, 6.0, 5.0, 7.0) for m in RATES]
    measured += [row("accuracy", m, 0.5 + i / 10, 0.4, 0.8, suite="utility", task="piqa") for i, m in enumerate(RATES)]
    contrasts = []
    for model in ("a:constrained", "b:dpo"):
        value = RATES[model][0] - 0.40
        p = {"p": "0.0000021", "test": "McNemar, exact"}
        contrasts.append(
            row("violation_rate_difference", model, value, value - 0.04, value + 0.05, constraint="clean", **p)
        )
        contrasts.append(row("violation_rate_ratio", model, RATES[model][0] / 0.4, 0.15, 0.6, constraint="clean"))
        contrasts.append(row("clean_perplexity_difference", model, -0.5, -0.9, 0.1, unpaired="yes"))
        contrasts.append(row("accuracy_difference", model, 0.1, 0.02, 0.18, suite="utility", task="piqa"))
    facts = {model: {"run": f"runs/{model}", "seed": "0"} for model in RATES}
    remarks = ("b:dpo and sft have different <seeds> (1 and 0)",)
    return Comparison("sft", tuple(RATES), tuple(measured), tuple(contrasts), remarks, facts)


def test_the_result_is_told_with_intervals_ratio_and_p(comparison):
    assert told(comparison)[0].replace("\N{NO-BREAK SPACE}", " ") == (
        "Of 3 models, a:constrained violates “clean” least: 8.0 % (6.0 to 11.0) of its outputs, against 40.0 % (36.0 to 45.0) "
        "of plain fine-tuning; that is 0.200 × (0.150 to 0.600) as often (p ≤ 0.001, McNemar, exact)."
    )


def test_nobody_is_told_to_be_better_than_a_reference_it_only_equals(comparison):
    alike = [row("violation_rate", m, *RATES["sft"], constraint="clean") for m in RATES]
    (sentence,) = told(Comparison("sft", tuple(RATES), tuple(alike), (), (), {}))
    assert "none violates “clean” less than plain fine-tuning" in sentence


def test_the_page_has_figures_tables_remarks_and_where_models_are_from(comparison):
    page = comparison_page(comparison, "2026-01-01", "adhere compare a b")
    assert "have different &lt;seeds&gt; (1 and 0)." in page
    assert "−32.0 points" in page and "−36.0 to −27.0; p" in page
    assert "-0.500†" in page or "−0.500†" in page
    assert "intervals without pairs" in page
    assert "piqa: accuracy" in page and "+10.0 points" in page
    assert "runs/b:dpo" in page
    plots = {key: json.loads(spec) for key, spec in re.findall(r'data-plot="plot-([\w-]+)">(.*?)</script>', page)}
    assert len(plots) == 2
    front = next(iter(plots.values()))["data"][0]
    assert front["x"] == [23.5] and front["y"] == [8.0]  # the others are worse in both


def test_violations_are_drawn_against_the_utility_asked_for(comparison):
    (trade, _) = trade_offs(comparison.measurements, comparison.models, "utility.accuracy.piqa")
    assert trade.figure.spec["layout"]["xaxis"]["title"]["text"] == "accuracy, piqa, % (higher is better)"
    assert set(trade.front) == {"a:constrained", "b:dpo"}  # more accuracy, more violations
    with pytest.raises(RecipeError, match=r"there are clean_perplexity, utility\.accuracy\.piqa"):
        trade_offs(comparison.measurements, comparison.models, "piqa")
    assert list(utility_columns(comparison.measurements)) == ["clean_perplexity", "utility.accuracy.piqa"]


def test_every_point_has_its_intervals_both_ways(comparison):
    points = trade_offs(comparison.measurements, comparison.models)[0].figure.spec["data"][1:]
    assert [point["name"] for point in points] == ["plain fine-tuning", "a:constrained", "b:dpo"]
    assert points[1]["error_y"]["array"] == pytest.approx([3.0])
    assert points[1]["error_x"]["arrayminus"] == pytest.approx([2.35])


def test_contrasts_have_a_table_each(comparison):
    names = ["violation_rate", "clean_perplexity"]
    differences = difference_table(comparison.contrasts, "sft", names)
    assert str(differences.rows[0].cells[0]).startswith("−32.0 points [−36.0 to −27.0; p")
    assert "†" in differences.caption
    ratios = ratio_table(comparison.contrasts, "sft", names)
    assert [str(cell) for cell in ratios.rows[1].cells] == ["0.500 × [0.150 to 0.600]"]
    assert ratio_table(comparison.contrasts, "sft", ["emt"]) is None


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (-0.32, "percent", "−32.0"),
        (0.05, "number", "+0.050"),
        (0, "number", "±0.000"),
        (90.0, "seconds", "+1 min 30 s"),
    ],
)
def test_a_difference_always_has_its_sign(value, form, shown):
    assert signed(value, form) == shown


def test_p_is_never_shown_as_zero():
    assert told_p("0.0004").split() == ["p", "≤", "0.001"] and told_p("0.042").split() == ["p", "=", "0.042"]


def test_a_contrast_without_an_interval_shows_its_value_alone():
    assert str(contrast_cell(Measurement("train_seconds_ratio", 3.0), "train_seconds")) == "3.000 ×"
