from adhere.evaluation.pareto import pareto_front


def test_the_front_holds_the_points_that_no_other_beats_in_both():
    assert pareto_front([(1.0, 5.0), (2.0, 2.0), (3.0, 3.0), (4.0, 1.0), (2.0, 4.0)]) == [0, 1, 3]


def test_equal_points_do_not_beat_each_other():
    assert pareto_front([(1.0, 1.0), (1.0, 1.0), (1.0, 2.0)]) == [0, 1]


def test_a_single_point_is_the_front():
    assert pareto_front([(1.0, 1.0)]) == [0]
    assert pareto_front([]) == []
