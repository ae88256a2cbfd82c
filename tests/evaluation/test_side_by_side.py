"""Models built here by hand, measured by the functions that measure real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from adhere.evaluation.contrast import UNPAIRED
from adhere.evaluation.parts import parts_of
from adhere.evaluation.perplexity import TokenLosses, perplexity
from adhere.evaluation.quality import outputs_by_prompt, quality
from adhere.evaluation.satisfaction import scores_by_prompt, violation_rate
from adhere.evaluation.side_by_side import Compared, compare_models
from adhere.evaluation.toxicity import toxicity
from adhere.records import EvaluationResult, LabelledSample, Measurement, Sample, Verdict

WORDS = ("a", "dog", "and", "another", "dog", "ran", "home", "late")
SAMPLING = {"max_new_tokens": 8, "temperature": 1.0}


def evaluated(
    rate: float,
    prompts: Sequence[str] = tuple(f"prompt {i}" for i in range(60)),
    draws: int = 0,
    constraint: str = "clean",
    **conditions: str,
) -> EvaluationResult:
    chance = np.random.default_rng([draws, int(1000 * rate)])
    completions = []
    for index, prompt in enumerate(prompts):
        for replicate in range(2):
            output = " ".join(chance.choice(WORDS, size=6))
            score = 0.0 if chance.random() < rate else 1.0
            verdicts = {constraint: Verdict(score), "judge": Verdict(score if chance.random() < 0.9 else None)}
            completions.append(
                LabelledSample(Sample(index, replicate, prompt, output, (1,), (2,), True, -1.0), verdicts)
            )
    tokens = np.full(20, 10)
    losses = TokenLosses(tokens * chance.normal(3.0, 0.1, 20), tokens)
    judged = violation_rate(scores_by_prompt(completions, "judge"), "judge_violation_rate")
    judged.tags["judge"] = "judge"
    scores = scores_by_prompt(completions, constraint)
    measurements = (
        violation_rate(scores),
        *toxicity(scores, 2),
        judged,
        perplexity(losses, "clean_perplexity"),
        *quality(outputs_by_prompt(completions)),
    )
    pairs = tuple(zip(losses.nats_N.tolist(), losses.tokens_N.tolist(), strict=True))
    told = {"seed": "0", "sampling": json.dumps(SAMPLING), "corpus": "c", "oracle clean": "v1", "oracle judge": "j1"}
    return EvaluationResult(
        "sft", measurements, tuple(completions), {"clean_perplexity": pairs}, {**told, **conditions}
    )


def compared(*results: EvaluationResult):
    return compare_models([Compared(name, each) for name, each in zip("abc", results, strict=False)], "a")


@pytest.mark.parametrize("measured", evaluated(0.3).measurements, ids=lambda m: m.name)
def test_a_measurement_taken_apart_adds_up_to_itself(measured):
    result = evaluated(0.3)
    tagged = Measurement(measured.name, measured.value, tags={"constraint": "clean", **measured.tags})
    if measured.name == "distinct_2":
        assert parts_of(result, tagged).value == pytest.approx(measured.value)
    else:
        found = parts_of(result, tagged)
        assert found.value(found.sums_G2.sum(axis=0, keepdims=True))[0] == pytest.approx(measured.value)


def test_everything_that_both_have_is_compared_in_pairs_and_nothing_is_remarked():
    comparison = compared(evaluated(0.5), evaluated(0.2))
    names = {m.name for m in comparison.contrasts}
    assert {
        f"{n}_{k}"
        for n in ("violation_rate", "judge_violation_rate", "clean_perplexity", "emt", "distinct_2", "mean_length")
        for k in ("difference", "ratio")
    } <= names
    assert all(m.tags["model"] == "b" and m.tags["over"] == "a" for m in comparison.contrasts)
    violations = next(m for m in comparison.contrasts if m.name == "violation_rate_difference")
    assert violations.tags["interval"] == "paired bootstrap over prompts"
    assert violations.tags["constraint"] == "clean"
    assert comparison.remarks == ()


def test_other_prompts_are_compared_without_pairs_and_said():
    others = tuple(f"prompt {i}" for i in range(30, 70))
    comparison = compared(evaluated(0.5), evaluated(0.2, prompts=others))
    assert "b and a were asked different prompts (40 and 60, of which 30 are the same)" in comparison.remarks[0]
    violations = next(m for m in comparison.contrasts if m.name == "violation_rate_difference")
    assert violations.tags["interval"] == UNPAIRED and violations.tags["unpaired"] == "yes"
    assert "p" not in violations.tags
    texts = next(m for m in comparison.contrasts if m.name == "clean_perplexity_difference")
    assert texts.tags["interval"] == "paired bootstrap over texts"  # the texts are the same


def test_another_sampling_is_named_and_not_paired():
    other = json.dumps({**SAMPLING, "max_new_tokens": 32})
    comparison = compared(evaluated(0.5), evaluated(0.2, sampling=other))
    assert "sampled differently (max_new_tokens 32 and 8)" in comparison.remarks[0]
    assert all("unpaired" in m.tags for m in comparison.contrasts if m.name.startswith("violation_rate"))


def test_another_seed_or_corpus_is_said_but_prompts_still_pair():
    comparison = compared(evaluated(0.5), evaluated(0.2, seed="1", corpus="d"))
    assert [r for r in comparison.remarks if "different seeds (1 and 0)" in r]
    assert [r for r in comparison.remarks if "different corpora" in r]
    assert not any("unpaired" in m.tags for m in comparison.contrasts)


def test_verdicts_of_another_oracle_of_the_same_name_are_not_compared():
    comparison = compared(evaluated(0.5), evaluated(0.2, **{"oracle clean": "v2"}))
    assert "is another oracle than 'clean'" in comparison.remarks[0]
    assert not [m for m in comparison.contrasts if m.name.startswith("violation_rate")]
    assert {m.tags["constraint"] for m in comparison.measurements if m.name == "violation_rate"} == {
        "clean",
        "clean (2)",
    }


def test_one_oracle_by_two_names_is_one_measure():
    comparison = compared(evaluated(0.5), evaluated(0.2, constraint="polite", **{"oracle polite": "v1"}))
    assert [m for m in comparison.contrasts if m.name == "violation_rate_ratio"]
    assert {m.tags["constraint"] for m in comparison.measurements if m.name == "violation_rate"} == {"clean"}


def test_perplexities_of_other_texts_are_not_compared():
    other = evaluated(0.2)
    other.losses["clean_perplexity"] = tuple((nats, tokens + 1) for nats, tokens in other.losses["clean_perplexity"])
    comparison = compared(evaluated(0.5), other)
    assert "not scored on the same tokens for clean perplexity" in comparison.remarks[0]
    assert not [m for m in comparison.contrasts if m.name.startswith("clean_perplexity")]


def test_what_stands_beside_an_evaluation_is_compared_from_its_intervals():
    accuracy = [
        Measurement("accuracy", v, v - 0.05, v + 0.05, tags={"suite": "utility", "task": "piqa"}) for v in (0.6, 0.5)
    ]
    models = [Compared(n, evaluated(0.3), more=(m,)) for n, m in zip("ab", accuracy, strict=True)]
    made = {m.name: m for m in compare_models(models, "a").contrasts if "suite" in m.tags}
    assert made["accuracy_difference"].value == pytest.approx(-0.1)
    assert made["accuracy_difference"].tags["interval"] == UNPAIRED
    assert "unpaired" not in made["accuracy_difference"].tags
