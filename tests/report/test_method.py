from adhere.records import Measurement
from adhere.report.method import how_measured, judges
from adhere.report.run_files import RunFiles, SampleLine


def test_judges_trained_against_and_judges_not_are_told_apart(tmp_path):
    line = SampleLine(0, 0, "", "", {"clean": 1.0}, {"jigsaw-bilstm": 0.9}, None)
    rows = [
        Measurement("violation_rate", 0.1, tags={"model": "sft", "constraint": "short"}),
        Measurement("judge_violation_rate", 0.1, tags={"model": "sft", "constraint": "clean", "judge": "toxic-bert"}),
    ]
    named = judges(RunFiles(tmp_path, measurements=rows, samples={"sft": [line, line]}))
    assert named.trained_against == ["clean", "short"]
    assert named.independent == ["jigsaw-bilstm", "toxic-bert"]


def test_each_number_tells_its_n_its_interval_and_what_was_left_out():
    rows = [
        Measurement("violation_rate", 0.1, 0, 1, 400, tags={"model": "sft", "interval": "wilson", "no_verdict": "0"}),
        Measurement(
            "violation_rate", 0.1, 0, 1, 397, tags={"model": "before", "interval": "wilson", "no_verdict": "3"}
        ),
        Measurement("distinct_2", 0.7, 0, 1, 400, tags={"model": "sft", "interval": "something new"}),
        Measurement("train_seconds", 12.0, tags={"model": "sft"}),
    ]
    told = [(line.label, line.n, line.interval, line.no_verdict) for line in how_measured(rows)]
    assert told == [
        ("violations", "400 / 397", "Wilson score interval", "before fine-tuning: 3"),
        ("distinct-2", "400", "something new", ""),
    ]
