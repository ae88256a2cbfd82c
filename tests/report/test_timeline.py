from adhere.report.timeline import timeline_figure


def spent(part, iteration, began, seconds):
    return {"event": "spent", "step": 0, "time": began + seconds, "part": part, "iteration": iteration,
            "began": began, "seconds": seconds}  # fmt: skip


PARALLEL = [
    spent("sampling", 0, 1000.0, 4.0),
    spent("labelling", 0, 1004.0, 2.0),
    spent("fitting", 0, 1006.0, 4.0),
    spent("waiting", 0, 1000.0, 10.0),
    spent("training", 0, 1010.0, 20.0),
    spent("sampling", 1, 1030.0, 15.0),
    spent("labelling", 1, 1045.0, 10.0),
    spent("training", 1, 1030.0, 20.0),
    spent("waiting", 2, 1050.0, 5.0),
]


def test_every_part_has_a_lane_with_its_own_times():
    figure = timeline_figure(PARALLEL, [{"step": 20, "staleness/iterations": 1.0, "staleness/steps": 25.0}])
    lanes = {lane["name"]: lane for lane in figure.spec["data"]}
    assert list(lanes) == ["training", "waiting", "sampling", "labelling", "fitting"]
    assert lanes["training"]["base"] == [10.0, 30.0] and lanes["training"]["x"] == [20.0, 20.0]
    assert lanes["waiting"]["base"] == [0.0, 50.0] and lanes["waiting"]["x"] == [10.0, 5.0]
    assert lanes["labelling"]["base"] == [4.0, 45.0]
    assert figure.spec["layout"]["yaxis"]["categoryarray"][-1] == "training"  # on top
    assert figure.summary == (
        "Training took 40.0 s and waited 15.0 s for guidance (27% of its time). Guidance was made in 35.0 s, 20.0 s of it "
        "while the model was trained. When it was taken up it was up to 1 iteration old (25 steps)."
    )


def test_failures_are_marked_and_counted():
    failed = {"event": "refresh failed", "time": 1040.0, "iteration": 1, "why": "the worker died"}
    figure = timeline_figure([*PARALLEL, failed], [])
    assert figure.spec["data"][-1]["x"] == [40.0] and figure.spec["data"][-1]["name"] == "refresh failed"
    assert figure.summary.endswith("1 attempt at a refresh failed.")


def test_the_night_between_a_stop_and_a_resume_is_left_out():
    night = 40_000.0
    figure = timeline_figure([spent("training", 0, 0.0, 10.0), spent("training", 1, 10.0 + night, 5.0)], [])
    assert figure.spec["data"][0]["base"] == [0.0, 10.0]
    assert "Pauses in which the run stood still are left out." in figure.summary
    short = timeline_figure([spent("training", 0, 0.0, 10.0), spent("training", 1, 30.0, 5.0)], [])
    assert short.spec["data"][0]["base"] == [0.0, 30.0] and "left out" not in short.summary


def test_what_says_nothing_of_time_draws_nothing():
    assert timeline_figure([], []) is None
    damaged = [{"event": "spent", "part": "training", "began": None, "seconds": 1}, {"event": "fitted", "time": 1.0}]
    assert timeline_figure([*damaged, {"event": "spent", "part": "lunch", "began": 1.0, "seconds": 1.0}], []) is None
