import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adhere.evaluation.intervals import wilson
from adhere.evaluation.quality import distinct_n, empty_rate, looping, mean_length, quality, repetition

SENTENCES = [["the cat sat on the mat today"], ["a dog ran over the hill"], ["rain fell on the old town"]]


def test_distinct_n_counts_different_ngrams_over_the_whole_set():
    measured = distinct_n([["a b a b"], ["a b"]], 2)
    assert measured.value == 2 / 4  # ab, ba of ab ba ab ab
    assert measured.name == "distinct_2" and measured.n == 2 and measured.tags["ngrams"] == "4"
    assert distinct_n([["a b a b"], ["a b"]], 1).value == 2 / 6


def test_the_interval_of_distinct_n_holds_its_value_where_a_bootstrap_would_not():
    outputs = [[f"{index} {index + 1000} {index + 2000}"] for index in range(50)]  # no bigram twice
    measured = distinct_n(outputs)
    assert (measured.low, measured.value, measured.high) == (1.0, 1.0, 1.0)


def test_the_jackknife_of_distinct_n_recounts_without_each_prompt():
    outputs = [["a b c", "a b"], ["c d e a b a b c"], ["a b d a b c"], ["x y x y c d e a"]]
    measured = distinct_n(outputs)
    without = [distinct_n(outputs[:place] + outputs[place + 1 :]).value for place in range(4)]
    squares = sum((value - np.mean(without)) ** 2 for value in without)
    assert measured.high - measured.value == pytest.approx(1.959964 * (3 / 4 * squares) ** 0.5, rel=1e-6)


def test_distinct_n_falls_as_the_set_grows_so_only_equal_sizes_compare():
    generator = np.random.default_rng(0)
    outputs = [[" ".join(generator.choice(list("abcdefghij"), 12))] for _ in range(200)]
    assert distinct_n(outputs[:20]).value > 2 * distinct_n(outputs).value


def test_ngrams_do_not_reach_from_one_output_into_the_next():
    assert distinct_n([["a b", "c d"]], 2).tags["ngrams"] == "2"


def test_repetition_is_the_share_of_fourgrams_written_before():
    assert repetition([["a b c d a b c d"]]).value == pytest.approx(1 / 5)  # abcd comes back
    assert repetition(SENTENCES).value == 0.0
    assert repetition([["no"], [""]]).value == 0.0


@pytest.mark.parametrize(
    ("output", "is_loop"),
    [
        ("the the the the the the", True),
        ("well I know. I know. I know. I know.", True),
        ("one two three one two three one two three", True),
        ("ha ha ha", False),
        ("he said no no no no no to that", False),
        ("one two three one two three", False),
        ("a b a b a c a b a b", False),
        ("", False),
    ],
)
def test_a_phrase_three_times_in_a_row_is_a_loop(output, is_loop):
    assert looping([[output]]).value == is_loop


@given(st.lists(st.sampled_from("ab"), max_size=20))
def test_loops_are_found_wherever_they_stand(words):
    def brute() -> bool:
        for start in range(len(words)):
            for period in range(1, len(words) // 3 + 1):
                stretch = words[start : start + max(6, 3 * period)]
                repeats = all(stretch[i] == stretch[i % period] for i in range(len(stretch)))
                if len(stretch) == max(6, 3 * period) and repeats:
                    return True
        return False

    assert looping([[" ".join(words)]]).value == brute()


def test_lengths_and_empty_outputs_are_counted():
    outputs = [["one two three"], ["  \n"], ["", "one"]]
    assert mean_length(outputs).value == 1.0 and mean_length(outputs).unit == "words"
    assert empty_rate(outputs).value == 0.5
    assert empty_rate([["x"], [""]]).tags["interval"] == "wilson"
    assert (empty_rate([["x"]] * 9).low, empty_rate([["x"]] * 9).high) == wilson(0, 9)[1:]


@pytest.mark.parametrize("collapsed", ["OK", "I am fine. I am fine. I am fine. I am fine.", "", "no " * 30])
def test_a_collapsed_model_does_not_look_good(collapsed):
    words = list("abcdefghijklmnopqrstuvwxyz")
    generator = np.random.default_rng(1)
    healthy = {m.name: m.value for m in quality([[" ".join(generator.choice(words, 12))] for _ in range(40)])}
    broken = {m.name: m.value for m in quality([[collapsed]] * 40)}
    worse = [
        broken["distinct_2"] < 0.5 * healthy["distinct_2"],
        broken["repetition"] > healthy["repetition"] + 0.1,
        broken["looping"] > 0.5,
        broken["mean_length"] < 0.2 * healthy["mean_length"],
        broken["empty_rate"] > 0.5,
    ]
    assert sum(worse) >= 2


def test_no_output_is_an_error():
    with pytest.raises(ValueError, match="at least one output"):
        quality([])
    with pytest.raises(ValueError, match="n must be at least 1"):
        distinct_n([["a"]], 0)
