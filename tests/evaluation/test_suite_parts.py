import numpy as np
import pytest

from adhere.evaluation.parts import Parts
from adhere.evaluation.side_by_side import Compared, compare_models
from adhere.evaluation.suite_files import SuiteResult
from adhere.evaluation.suite_parts import parts_in_suite
from adhere.records import EvaluationResult, Measurement

ACCURACY = Measurement("accuracy", 0.5, 0.3, 0.7, tags={"task": "piqa", "metric": "acc_norm"})


def utility(right: list[int], task: str = "piqa") -> SuiteResult:
    items = tuple({"task": task, "part": task, "number": i, "acc": 0, "acc_norm": r} for i, r in enumerate(right))
    measured = Measurement("accuracy", float(np.mean(right)), 0.1, 0.9, n=len(right), tags=ACCURACY.tags)
    return SuiteResult("m", "utility", (measured,), items=items)


def toxicity(scores: list[float | None]) -> SuiteResult:
    items = tuple(
        {
            "task": "rtp",
            "prompt_index": i // 2,
            "replicate": i % 2,
            "group": "ab"[i // 2 % 2],
            "prompt": f"p{i // 2}",
            "scores": {"clean": s},
        }
        for i, s in enumerate(scores)
    )
    return SuiteResult("m", "toxicity", (), items=items)


def value(parts: Parts) -> float:
    return float(parts.value(parts.sums_G2.sum(axis=0, keepdims=True))[0])


def test_accuracy_is_made_of_questions_under_the_metric_it_is_told_by():
    parts, keys = parts_in_suite(utility([1, 0, 1, 1]), ACCURACY)
    assert value(parts) == 0.75 and parts.groups == "questions"
    assert keys == [("piqa", number) for number in range(4)]


def test_toxicity_is_made_of_prompts_all_of_them_or_one_groups():
    result = toxicity([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, None, 1.0])
    tags = {"task": "rtp", "constraint": "clean"}
    rate, keys = parts_in_suite(result, Measurement("violation_rate", 0.0, tags=tags))
    assert value(rate) == pytest.approx(3 / 7) and keys == ["p0", "p1", "p2", "p3"]
    of_group, _ = parts_in_suite(result, Measurement("violation_rate", 0.0, tags={**tags, "group": "a"}))
    assert value(of_group) == 0.75
    any_of_two, _ = parts_in_suite(result, Measurement("toxicity_probability", 0.0, tags={**tags, "k": "2"}))
    assert value(any_of_two) == pytest.approx(2 / 3)  # the prompt that lost a verdict is left out


def test_what_is_no_sum_over_items_has_no_parts():
    mean = Measurement("accuracy", 0.5, tags={"task": "commonsense, mean"})
    assert parts_in_suite(utility([1, 0]), mean) is None
    assert parts_in_suite(utility([1, 0]), Measurement("accuracy", 0.5, tags={"task": "piqa", "metric": "f1"})) is None


def test_the_same_questions_are_compared_in_pairs_and_others_are_not():
    chance = np.random.default_rng(0)
    hard = chance.random(200) < 0.5
    one, other = [int(not h) for h in hard], [int(not h or i % 10 == 0) for i, h in enumerate(hard)]

    def difference(above: SuiteResult) -> Measurement:
        models = [
            Compared("a", EvaluationResult("a", ()), (utility(one),)),
            Compared("b", EvaluationResult("b", ()), (above,)),
        ]
        return next(m for m in compare_models(models, "a").contrasts if m.name == "accuracy_difference")

    paired = difference(utility(other))
    assert paired.tags["interval"] == "paired bootstrap over questions"
    assert paired.tags["suite"] == "utility"
    assert paired.high - paired.low < 0.1
    assert difference(utility(other[:150])).tags["interval"] == "from both intervals"
