import json
import math

import pytest

from adhere.errors import RunFolderError
from adhere.records import Measurement
from adhere.report.run_files import measurement, read_run


def test_everything_a_finished_run_wrote_is_read(make_run):
    run = read_run(make_run())
    assert run.recipe.startswith("method: constrained")
    assert run.manifest["command"] == "adhere demo --seed 0"
    assert run.summary["benchmark"] == "demo" and "rows" not in run.summary
    assert list(run.samples) == ["before", "constrained", "sft"]
    assert len(run.samples["sft"]) == 40 and run.samples["sft"][3].judge == {"jigsaw-bilstm": None}
    assert run.tokens[0].tokens[4:6] == (" bull", "shit") and run.tokens[0].model == "sft"
    assert len(run.log) == 79 and len(run.events) == 2
    assert len(run.measurements) == 24


def test_a_torn_last_line_is_left_out_and_told(make_run):
    assert read_run(make_run()).unreadable == ["1 of 3 entries of events.jsonl could not be read and were left out."]


def test_rows_turn_into_measurements_with_their_tags():
    row = {"name": "emt", "value": 1, "low": None, "n": 4, "model": "sft", "k": 25, "judge": None}
    assert measurement(row) == Measurement("emt", 1.0, None, None, 4, "", {"model": "sft", "k": "25"})
    assert measurement(Measurement("x", 0.5, 0.4, 0.6, 3, "s", {"model": "a"}).to_row()) == Measurement(
        "x", 0.5, 0.4, 0.6, 3, "s", {"model": "a"}
    )


@pytest.mark.parametrize(
    "row", [{"value": 1.0}, {"name": "x"}, {"name": "x", "value": math.nan}, {"name": "x", "value": True}]
)
def test_a_row_without_a_name_or_a_number_is_no_measurement(row):
    with pytest.raises(ValueError, match="a row needs a name and a finite value"):
        measurement(row)


def test_without_a_summary_the_measurements_of_each_model_are_read(tmp_path):
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    (evaluation / "sft.json").write_text(json.dumps([{"name": "violation_rate", "value": 0.5}]))
    (evaluation / "constrained.json").write_text(json.dumps({"rows": [{"name": "violation_rate", "value": 0.1}]}))
    (evaluation / "tokens.json").write_text("[]")
    run = read_run(tmp_path)
    assert [(m.tags["model"], m.value) for m in run.measurements] == [("constrained", 0.1), ("sft", 0.5)]


def test_the_log_of_a_stopped_run_comes_from_its_last_checkpoint(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": step}]}))
    assert read_run(tmp_path).log == [{"step": 10}]


def test_damaged_files_are_told_and_cost_nothing_else(make_run):
    folder = make_run()
    (folder / "manifest.json").write_text("{")
    (folder / "log_history.json").write_text("[1, {}]")
    (folder / "recipe.yaml").write_bytes(b"name: \xff")
    tokens = [{"tokens": ["a"], "satisfaction": []}, {"tokens": ["a"], "satisfaction": [2.0]}, {"tokens": ["a"]}]
    (folder / "evaluation" / "tokens.json").write_text(json.dumps([*tokens, {"tokens": ["a"], "satisfaction": ["x"]}]))
    with open(folder / "evaluation" / "sft.samples.jsonl", "a") as stream:
        stream.write('{"prompt_index": "one", "prompt": "", "output": ""}\n{"prompt": "no index"}\n')
    run = read_run(folder)
    assert run.manifest == {} and run.recipe == "name: \N{REPLACEMENT CHARACTER}"
    assert [line.satisfaction for line in run.tokens] == [(1.0,)]  # kept within [0, 1]
    assert len(run.samples["sft"]) == 40
    assert run.unreadable[0] == "manifest.json is not valid JSON and was left out."
    told = " ".join(run.unreadable)
    assert "1 of 2 entries of log_history.json" in told
    assert "2 of 42 entries of sft.samples.jsonl" in told
    assert "3 of 4 entries of tokens.json" in told


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"there is no run folder .*nowhere"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"holds no run: none of recipe\.yaml"):
        read_run(tmp_path)
