from __future__ import annotations

from collections.abc import Callable

import pytest

from adhere.errors import HealthError
from adhere.guidance.guidance import Guidance
from adhere.records import GuidanceVersion
from adhere.training import refresh_health
from adhere.training.health_config import HealthConfig
from adhere.training.refresh_health import Shape, collapse, saturation, shape_of
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]

CORPUS = Shape(256, 0.0, 14.0, 0.93)
FIRST = Shape(256, 0.03, 22.0, 0.90)


def test_the_shape_of_outputs() -> None:
    shape = shape_of([[1, 2, 1, 2], [], [1, 2]])
    assert (shape.outputs, shape.length) == (3, 2.0)
    assert shape.empty == pytest.approx(1 / 3)
    assert shape.distinct == pytest.approx(2 / 4)  # 12 and 21, of 12 21 12 12


def test_outputs_without_a_bigram_are_as_distinct_as_can_be() -> None:
    assert shape_of([[1], [1]]).distinct == 1.0
    assert shape_of([]) == Shape(0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Shape(256, 0.55, 9.0, 0.95), "55% of the outputs are empty"),
        (Shape(256, 0.2, 3.0, 0.95), "outputs are 3.0 tokens long, less than 25% of 14.0"),
        (Shape(256, 0.0, 22.0, 0.40), "40% of the outputs' bigrams are distinct, less than 50% of 90%"),
        (Shape(256, 0.071, 0.6 * 14, 0.955), ""),  # what the demo's constrained model comes to
        (Shape(31, 1.0, 0.0, 1.0), ""),  # too few to tell
    ],
)
def test_a_collapse_is_told_and_what_is_none_is_not(now: Shape, said: str) -> None:
    found = collapse(now, FIRST, CORPUS, HealthConfig())
    assert found.startswith(said) and bool(found) == bool(said)


def test_a_policy_that_writes_as_its_corpus_does_has_learned_and_not_collapsed() -> None:
    labels = Shape(256, 0.0, 1.0, 0.2)
    assert collapse(labels, FIRST, labels, HealthConfig()) == ""
    assert "distinct" in collapse(Shape(256, 0.0, 20.0, 0.2), FIRST, CORPUS, HealthConfig())


def _guidance(certain: float, base_rate: float) -> Guidance:
    return Guidance(GuidanceVersion(1, 5, {"clean": {"certain": certain, "base_rate": base_rate}}), {}, {})


def test_guidance_that_is_certain_though_outputs_violate_is_saturated() -> None:
    (told,) = saturation(_guidance(0.995, 0.88), HealthConfig())
    assert "clean" in told and "99.5%" in told and "12% of the outputs violate" in told


@pytest.mark.parametrize(("certain", "base_rate"), [(0.995, 0.97), (0.9, 0.5), (0.0, 0.885)])
def test_guidance_that_is_right_or_has_doubts_is_not(certain: float, base_rate: float) -> None:
    assert list(saturation(_guidance(certain, base_rate), HealthConfig())) == []


@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_a_run_whose_outputs_collapse_stops_before_it_trains_on_or_says_so(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(refresh_health, "collapse", lambda *_: "all is empty")
    trainer = make_trainer(health={"collapsed_outputs": policy})
    if policy == "warn":
        trainer.train()
        assert '"fault": "collapsed_outputs"' in (trainer.run_folder / "events.jsonl").read_text()
        return
    with pytest.raises(HealthError, match=r"iteration 1: all is empty\..*health.collapsed_outputs=warn"):
        trainer.train()
    assert trainer.state.global_step == 2
    resumed = make_trainer(health={"collapsed_outputs": "warn"})
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4


def test_a_run_is_measured_against_its_own_first_iteration_and_its_corpus(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Shape, Shape, Shape]] = []
    monkeypatch.setattr(
        refresh_health, "collapse", lambda now, first, corpus, _: seen.append((now, first, corpus)) or ""
    )
    make_trainer().train()
    ((now, first, corpus),) = seen  # of the second iteration alone
    assert (now.outputs, first.outputs) == (8, 8)
    assert corpus.outputs == 12 and corpus.length == pytest.approx((len(" is zzz.") + len(" is good.")) / 2)


def test_a_run_with_saturated_guidance_stops(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh_health, "saturation", lambda *_: iter(["constraint no z: certain of everything"]))
    with pytest.raises(HealthError, match="iteration 0: constraint no z: certain of everything"):
        make_trainer().train()
