from adhere.records import Measurement
from adhere.report.figures import training_figures, violations_figure


def by_key(log):
    return {figure.key: figure for figure in training_figures(log)}


def test_violations_are_drawn_with_the_ends_of_their_intervals():
    rows = [
        Measurement("violation_rate", 0.1, 0.08, 0.15, 400, tags={"model": "constrained"}),
        Measurement("violation_rate", 0.7, None, None, 400, tags={"model": "sft"}),
        Measurement("judge_violation_rate", 0.5, 0.4, 0.6, 400, tags={"model": "sft"}),
    ]
    figure = violations_figure(rows)
    own, judge = figure.spec["data"]
    assert own["x"] == [70.0, 10.0] and judge["x"] == [50.0]
    assert [round(reach, 6) for reach in own["error_x"]["array"]] == [0.0, 5.0]
    assert [round(reach, 6) for reach in own["error_x"]["arrayminus"]] == [0.0, 2.0]
    assert figure.spec["layout"]["yaxis"]["ticktext"] == ["plain fine-tuning", "constrained fine-tuning"]
    assert own["marker"]["symbol"] != judge["marker"]["symbol"]  # told apart without colour
    assert "constrained fine-tuning 10.0 %" in figure.summary
    assert violations_figure([]) is None


def test_every_constraint_gets_its_curve_and_its_band():
    log = [
        {
            "step": step,
            "corpus_loss": 4.0 - step,
            "satisfaction/a": 0.5,
            "satisfaction/a/low": 0.4,
            "satisfaction/a/high": 0.6,
            "satisfaction/a/n": 99,
            "satisfaction/b/c": 0.7,
            "kl/a": 0.1,
            "nado/a/auc": 0.9,
            "nado/a/saturation": 0.1,
        }
        for step in (1, 2)
    ]
    figures = by_key(log)
    assert list(figures) == ["loss", "kl", "satisfaction", "quality"]
    band, first, second = figures["satisfaction"].spec["data"]
    assert band["fill"] == "toself" and band["x"] == [1, 2, 2, 1] and band["y"] == [0.4, 0.4, 0.6, 0.6]
    assert (first["name"], second["name"]) == ("a", "b/c")
    assert figures["loss"].spec["data"][0]["y"] == [3.0, 2.0]
    assert figures["loss"].summary == "corpus loss: 3.00 at step 1, 2.00 at step 2."
    assert [line["name"] for line in figures["quality"].spec["data"]] == ["held-out ROC-AUC, a"]


def test_the_path_of_a_multiplier_stands_below_the_satisfaction_that_it_follows():
    log = [{"step": step, "satisfaction/a": 0.8 + step / 100, "corpus_loss": 3.0} for step in (0, 5, 10)]
    log += [{"step": step, "multiplier/a": 2.0 + step, "target/a": 0.95} for step in (0, 5)]
    figures = by_key(log)
    assert list(figures) == ["loss", "satisfaction", "multiplier"]
    (path,) = figures["multiplier"].spec["data"]
    assert (path["x"], path["y"], path["line"]["shape"]) == ([0, 5], [2.0, 7.0], "hv")
    assert figures["multiplier"].spec["layout"]["yaxis"]["type"] == "log"
    assert figures["multiplier"].summary == "a: 2.00 at step 0, 7.00 at step 5."
    share, target = figures["satisfaction"].spec["data"]
    assert (target["name"], target["x"], target["y"], target["line"]["dash"]) == (
        "target of a",
        [0, 10],
        [0.95, 0.95],
        "dot",
    )
    assert target["line"]["color"] == share["line"]["color"]


def test_domains_have_their_losses_and_their_distance_from_the_reference_drawn():
    log = [
        {
            "step": step, "corpus_loss": 3.0, "kl/a": 0.1, "domain/code/corpus_loss": 2.0, "domain/code/kl": 0.2,
            "domain/code/reference_kl": 0.0, "domain/a/b/corpus_loss": 4.0, "domain/a/b/reference_kl": 0.01 * step,
        }
        for step in (1, 2)
    ]  # fmt: skip
    figures = by_key(log)
    assert [line["name"] for line in figures["loss"].spec["data"]] == ["corpus loss", "domain code", "domain a/b"]
    assert [line["name"] for line in figures["kl"].spec["data"]] == ["constraint a", "to the reference, a/b"]


def test_only_what_was_logged_is_drawn():
    assert list(by_key([{"step": 1, "loss": 2.0}])) == ["loss"]
    assert training_figures([]) == []
    assert training_figures([{"loss": 2.0}, {"step": 1, "loss": None}, {"step": 2, "loss": float("nan")}]) == []


def test_a_step_logged_again_after_a_resume_is_drawn_once():
    log = [{"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    assert by_key(log)["loss"].spec["data"][0]["y"] == [3.0, 2.0]


def test_names_from_a_recipe_cannot_bring_markup_into_a_figure():
    log = [{"step": 1, "kl/<a href='x'>": 0.1, "satisfaction/<b>": 0.5}]
    assert "<" not in str([figure.spec for figure in training_figures(log)])
    rows = [Measurement("violation_rate", 0.1, tags={"model": "<i>", "constraint": c}) for c in ("<b>", "c")]
    assert "<b>" not in str(violations_figure(rows).spec) and "<i>" not in str(violations_figure(rows).spec)
