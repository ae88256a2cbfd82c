import pytest

from adhere.records import Measurement
from adhere.report.tables import cell, other_names, results_table, show


def measured(name: str, value: float, model: str, ends: tuple[float, float] | None = None, **tags: str) -> Measurement:
    low, high = ends or (None, None)
    return Measurement(name, value, low, high, 400, tags={"model": model, **tags})


DEMO = [
    measured("violation_rate", 0.118, "constrained", (0.09, 0.153), constraint="clean"),
    measured("violation_rate", 0.06, "before", (0.041, 0.088), constraint="clean"),
    measured("violation_rate", 0.688, "sft", (0.641, 0.731), constraint="clean"),
    measured("clean_perplexity", 29.92, "sft", (29.0, 30.8)),
    measured("clean_perplexity", 29.54, "constrained", (28.7, 30.4)),
    measured("train_seconds", 171.0, "sft"),
    measured("violation_rate_ratio", 0.172, "constrained", (0.129, 0.224), over="sft", constraint="clean"),
]


def test_models_come_in_their_order_and_the_ratio_comes_last():
    table = results_table(DEMO)
    assert [row.key for row in table.rows] == ["before", "sft", "constrained", "ratio"]
    assert table.plain() == [
        ["", "violations", "perplexity, clean text", "training time"],
        ["before fine-tuning", "6.0 % [4.1 to 8.8]", "—", "—"],
        ["plain fine-tuning", "68.8 % [64.1 to 73.1]", "29.92 [29.00 to 30.80]", "2 min 51 s"],
        ["constrained fine-tuning", "11.8 % [9.0 to 15.3]", "29.54 [28.70 to 30.40]", "—"],
        ["constrained ÷ plain", "0.172 × [0.129 to 0.224]", "0.987 ×", "—"],
    ]


def test_columns_say_which_way_is_better():
    assert [column.better for column in results_table(DEMO).columns] == ["lower", "lower", ""]


def test_every_constraint_has_its_own_column_and_ratio():
    two = [
        measured("violation_rate", value, model, constraint=constraint)
        for constraint, values in (("clean", (0.1, 0.5)), ("no addresses", (0.02, 0.04)))
        for value, model in zip(values, ("constrained", "sft"), strict=True)
    ]
    assert results_table(two).plain() == [
        ["", "violations · clean", "violations · no addresses"],
        ["plain fine-tuning", "50.0 %", "4.0 %"],
        ["constrained fine-tuning", "10.0 %", "2.0 %"],
        ["constrained ÷ plain", "0.200 ×", "0.500 ×"],
    ]


def test_k_is_part_of_the_heading_and_bookkeeping_tags_are_not():
    rows = [
        measured("emt", 0.4, "sft", k="25", interval="x"),
        measured("emt", 0.3, "constrained", k="25", interval="y"),
    ]
    table = results_table(rows, ["emt"])
    assert [column.label for column in table.columns] == ["expected maximum toxicity · k = 25"]
    assert [str(row.cells[0]) for row in table.rows] == ["0.400", "0.300", "0.750 ×"]


def test_without_plain_fine_tuning_the_ratio_is_to_the_model_before():
    rows = [m for m in DEMO if m.tags["model"] != "sft" and "ratio" not in m.name]
    assert results_table(rows).plain()[-1] == ["constrained ÷ before", "1.967 ×", "—"]


def test_there_is_no_ratio_to_zero_and_none_without_a_constrained_model():
    zero = [measured("violation_rate", 0.1, "constrained"), measured("violation_rate", 0.0, "sft")]
    assert results_table(zero).plain()[-1] == ["constrained ÷ plain", "—"]
    assert [row.key for row in results_table(zero[1:]).rows] == ["sft"]


def test_a_ratio_to_another_model_is_not_mistaken_for_the_one_shown():
    rows = [
        *DEMO[:-1],
        measured("violation_rate_ratio", 1.97, "constrained", (1.2, 3.1), over="before", constraint="clean"),
    ]
    assert results_table(rows).plain()[-1][1] == "0.172 ×"


def test_other_models_and_other_measures_follow_under_their_own_names():
    rows = [
        *DEMO,
        measured("violation_rate", 0.47, "filtered-sft", constraint="clean"),
        measured("new_score", 3.0, "sft"),
    ]
    assert [row.label for row in results_table(rows).rows][3] == "filtered-sft"
    assert other_names([*rows, measured("emt", 0.3, "sft")]) == ["emt", "new_score"]
    assert results_table(rows, ["new_score"]).plain()[0] == ["", "new score"]


def test_nothing_measured_gives_no_table():
    assert results_table([]) is None
    assert results_table(DEMO, ["emt"]) is None
    assert results_table([Measurement("violation_rate", 0.5)]) is None  # of no model


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.1175, "percent", "11.8 %"),
        (1.0, "percent", "100.0 %"),
        (0.0314, "number", "0.031"),
        (29.9231, "number", "29.92"),
        (12345.0, "number", "12,345"),
        (4.21, "seconds", "4.2 s"),
        (59.7, "seconds", "1 min 0 s"),
        (3725.0, "seconds", "1 h 2 min"),
        (1.0204, "ratio", "1.020 ×"),
    ],
)
def test_numbers_are_shown_in_the_form_of_their_kind(value, form, text):
    assert show(value, form) == text


def test_a_missing_measurement_is_a_dash_and_half_an_interval_is_none():
    assert str(cell(None)) == "—"
    assert str(cell(Measurement("clean_perplexity", 30.0, low=29.0))) == "30.00"
