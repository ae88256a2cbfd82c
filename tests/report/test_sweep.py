import json
import re

from adhere.records import Measurement
from adhere.report.sweep import mean_over_seeds, sweep_page


def cells(seeds=("0", "1")):
    points = {"0.5": (0.30, 110.0), "1": (0.20, 115.0), "4": (0.08, 130.0)}
    rows = []
    for seed in seeds:
        shift = 0.02 * int(seed)
        for at, (rate, perplexity) in points.items():
            tags = {"model": f"weight = {at}", "at": at, "seed": seed, "machine": "a CPU, 2 cores"}
            rows.append(Measurement("violation_rate", rate + shift, rate - 0.05, rate + 0.05, 100, tags=tags))
            rows.append(Measurement("corpus_perplexity", perplexity, 0.9 * perplexity, 1.1 * perplexity, 50, tags=tags))
        tags = {"model": "sft", "seed": seed, "machine": "a CPU, 2 cores"}
        rows.append(Measurement("violation_rate", 0.4 + shift, 0.35, 0.5, 100, tags=tags))
        rows.append(Measurement("corpus_perplexity", 105.0, 90.0, 120.0, 50, tags=tags))
    return rows


def plots(page):
    return {key: json.loads(spec) for key, spec in re.findall(r'data-plot="plot-([\w-]+)">(.*?)</script>', page)}


def test_the_curve_goes_through_the_values_in_order_and_baselines_stand_beside_it():
    page = sweep_page(cells(), "constraints.0.weight", ["0.5", "1", "4"], "run-sweep", {"command": "adhere sweep r"})
    (plot,) = plots(page).values()
    curve, *points = plot["data"]
    assert curve["text"] == ["0.5", "1", "4"] and curve["x"] == [110.0, 115.0, 130.0]
    assert [round(y, 6) for y in curve["y"]] == [31.0, 21.0, 9.0]  # the means of two seeds
    assert [point["name"] for point in points] == ["over constraints.0.weight"] * 3 + ["plain fine-tuning"]
    assert [point["showlegend"] for point in points] == [True, False, False, True]
    assert "the mean of 2 seeds (0, 1)" in page and "weight = 4 · seed 1" in page
    assert "a CPU, 2 cores" in page and "adhere sweep r" in page


def test_a_sweep_that_is_not_finished_says_so():
    page = sweep_page(cells()[:4], "constraints.0.weight", ["0.5", "1", "4"], "s", {"cells": {"finished": 2, "all": 8}})
    assert "2 of 8 cells are finished" in page
    (plot,) = plots(page).values()
    assert plot["data"][0]["text"] == ["0.5", "1"]


def test_a_page_of_one_seed_claims_no_more():
    page = sweep_page(cells(("0",)), "constraints.0.weight", ["0.5"], "s", {})
    assert "there is one seed" in page and "seed 0</th>" not in page


def test_constraints_of_a_measure_are_averaged_apart():
    rows = [
        Measurement("violation_rate", value, tags={"model": "a", "seed": seed, "constraint": name})
        for seed in "01"
        for name, value in (("x", 0.1), ("y", 0.5))
    ]
    assert [(m.tags["constraint"], m.value) for m in mean_over_seeds(rows)] == [("x", 0.1), ("y", 0.5)]
