from adhere.records import Measurement
from adhere.report.headline import headline


def rate(model: str, value: float, name: str = "violation_rate", **tags: str) -> Measurement:
    return Measurement(name, value, value - 0.03, value + 0.03, 400, tags={"model": model, **tags})


def test_the_headline_names_all_three_models_with_intervals():
    rows = [rate("before", 0.06), rate("sft", 0.688), rate("constrained", 0.118)]
    assert headline(rows) == [
        "Fine-tuned under the constraint, the model violates it in 11.8 % (8.8 to 14.8) of its outputs, against "
        "68.8 % (65.8 to 71.8) after plain fine-tuning on the same corpus and 6.0 % (3.0 to 9.0) before fine-tuning."
    ]


def test_each_constraint_and_each_second_judge_has_a_sentence():
    rows = [
        rate("constrained", 0.1, constraint="clean"),
        rate("constrained", 0.2, constraint="short"),
        rate("constrained", 0.3, "judge_violation_rate", judge="jigsaw-bilstm", constraint="clean"),
        rate("sft", 0.6, "judge_violation_rate", judge="jigsaw-bilstm", constraint="clean"),
    ]
    sentences = headline(rows)
    assert [sentence.split(",")[0] for sentence in sentences] == [
        "Fine-tuned under “clean”",
        "Fine-tuned under “short”",
        "By jigsaw-bilstm",
    ]
    assert sentences[2] == (
        "By jigsaw-bilstm, a judge of “clean” that training never saw: constrained 30.0 % (27.0 to 33.0), "
        "plain 60.0 % (57.0 to 63.0)."
    )


def test_models_that_were_not_measured_are_not_mentioned():
    assert headline([rate("constrained", 0.1), rate("before", 0.2)]) == [
        "Fine-tuned under the constraint, the model violates it in 10.0 % (7.0 to 13.0) of its outputs, against "
        "20.0 % (17.0 to 23.0) before fine-tuning."
    ]
    assert headline([rate("sft", 0.6)]) == [
        "Outputs that violate the constraint: 60.0 % (57.0 to 63.0) after plain fine-tuning."
    ]
    assert headline([rate("filtered-sft", 0.6)]) == []
    assert headline([]) == []
