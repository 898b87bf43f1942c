"""Intervals against other ways to compute them, and against what an interval is for."""

import math

import numpy as np
import pytest
from scipy import stats

from pretrainrl_jax.knowledge.intervals import Z, paired, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (1, 7), (118, 1000), (50, 100)])
def test_wilson_is_where_the_score_test_is_just_not_rejected(right: int, count: int) -> None:
    interval = wilson(right, count)
    assert interval is not None
    for bound in interval:
        if 0 < bound < 1:  # the bound's own standard error, not that of the observed rate
            assert abs(right / count - bound) == pytest.approx(Z * math.sqrt(bound * (1 - bound) / count))
    assert interval[0] <= right / count <= interval[1]
    assert interval[0] < interval[1]


def test_wilson_without_questions() -> None:
    assert wilson(0, 0) is None


def test_paired_against_the_weighted_table() -> None:
    answers = [(False, True)] * 7 + [(True, False)] * 2 + [(True, True)] * 20 + [(False, False)] * 11
    difference = paired(answers)
    assert difference is not None
    assert (difference.questions, difference.before, difference.after) == (40, 22 / 40, 27 / 40)
    assert difference.rate == pytest.approx(5 / 40)
    # Mean and variance of +1, -1, 0, 0 with half a question more of each.
    values, weights = [1, -1, 0, 0], [7.5, 2.5, 20.5, 11.5]
    mean = np.average(values, weights=weights)
    error = math.sqrt(np.average((np.array(values) - mean) ** 2, weights=weights) / 42)
    low, high = stats.norm.interval(0.95, loc=mean, scale=error)
    assert (difference.low, difference.high) == pytest.approx((low, high))


def test_paired_turns_round_with_its_systems() -> None:
    answers = [(False, True)] * 7 + [(True, False)] * 2 + [(True, True)] * 20
    one, other = paired(answers), paired((b, a) for a, b in answers)
    assert one is not None
    assert other is not None
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_questions_without_a_flip_are_not_certain() -> None:
    few, many = paired([(True, True)] * 4), paired([(True, True)] * 4000)
    assert few is not None
    assert many is not None
    assert few.rate == many.rate == 0
    assert few.low < -0.2
    assert few.high > 0.2
    assert -0.002 < many.low < 0 < many.high < 0.002
    assert not few.clear
    assert not few.worse


def test_bounds_stay_within_the_possible() -> None:
    all_lost = paired([(True, False)] * 3)
    assert all_lost is not None
    assert all_lost.low >= -1
    assert all_lost.worse
    assert paired([]) is None


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    draw = np.random.default_rng(0)
    gain, loss, count, held = 0.2, 0.08, 60, 0
    for _ in range(1000):
        kinds = draw.choice(3, size=count, p=[gain, loss, 1 - gain - loss])
        difference = paired([((False, True), (True, False), (True, True))[k] for k in kinds])
        assert difference is not None
        held += difference.low <= gain - loss <= difference.high
    assert 930 <= held <= 975
