"""Confidence measures against brute force, SciPy and hand-made tables."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretrainrl_jax.knowledge.confidence import (
    area_under_risk_coverage,
    areas,
    bootstrap,
    brier,
    ece,
    log_loss,
    mcnemar,
    penalty_of,
    reliability,
    risk_coverage,
)
from pretrainrl_jax.report.knowledge.figures import margin, state_of

answered = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.55, 0.9, 1.0]), st.booleans()),
    min_size=1,
    max_size=6,
)


def test_penalty_of_the_papers_thresholds():
    penalties = [penalty_of(t) for t in (0, 0.5, 0.75, 0.9)]
    assert penalties == pytest.approx([0, 1, 3, 9])
    with pytest.raises(ValueError, match="lies in"):
        penalty_of(1.0)


@settings(deadline=None)
@given(answered)
def test_area_is_the_mean_over_all_orders_of_equals(pairs):
    confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
    places = range(len(pairs))
    orders = [o for o in itertools.permutations(places) if (np.diff(confidence[list(o)]) <= 0).all()]
    of_orders = [
        np.mean([np.mean([not right[i] for i in order[:k]]) for k in range(1, len(pairs) + 1)])
        for order in orders
    ]
    assert area_under_risk_coverage(confidence, right) == pytest.approx(np.mean(of_orders))
    ideal = area_under_risk_coverage(right.astype(float), right)
    assert ideal <= area_under_risk_coverage(confidence, right) + 1e-12


@settings(deadline=None)
@given(answered, st.lists(st.lists(st.integers(0, 99), min_size=4, max_size=4), min_size=1, max_size=5))
def test_areas_of_drawn_questions_are_those_of_the_questions_themselves(pairs, draws):
    confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
    places = np.array(draws) % len(pairs)  # [draws, 4]
    alone = [area_under_risk_coverage(confidence[own], right[own]) for own in places]
    np.testing.assert_allclose(areas(confidence, right)(places), alone)
    np.testing.assert_allclose(areas(confidence, right)(places.T, axis=0), alone)


def test_no_question_has_no_area():
    none = np.array([])
    assert math.isnan(area_under_risk_coverage(none, none.astype(bool)))
    assert np.isnan(areas(np.ones(3), np.ones(3, bool))(np.zeros((2, 0), int))).tolist() == [True, True]


@given(answered)
def test_every_point_of_the_risk_coverage_curve_is_a_threshold(pairs):
    confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
    coverage, risk = risk_coverage(confidence, right)
    expected = []
    for least in sorted({*confidence}, reverse=True):
        kept = confidence >= least
        expected.append((kept.mean(), (~right[kept]).mean()))
    assert np.allclose(np.stack([coverage, risk], 1), expected)


@given(answered, st.integers(1, 15))
def test_ece_and_reliability_by_brute_force(pairs, bins):
    total = 0.0
    for at in range(bins):
        # Edges such as 1/3 in 3 bins: what ceil(c * bins) rounds to is the definition.
        inside = [(c, r) for c, r in pairs if min(bins, max(1, math.ceil(c * bins))) == at + 1]
        if inside:
            total += abs(sum(r for _, r in inside) - sum(c for c, _ in inside))
    confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
    assert ece(confidence, right, bins) == pytest.approx(total / len(pairs))
    shown = reliability(confidence, right, bins)
    assert sum(b.questions for b in shown) == len(pairs)
    again = sum(b.questions * abs(b.accuracy - b.confidence) for b in shown) / len(pairs)
    assert again == pytest.approx(total / len(pairs))


@given(answered)
def test_brier_and_log_loss(pairs):
    confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
    assert brier(confidence, right) == pytest.approx(np.mean([(c - r) ** 2 for c, r in pairs]))
    sure = [min(max(c, 1e-7), 1 - 1e-7) for c, _ in pairs]
    losses = [-math.log(c if r else 1 - c) for c, (_, r) in zip(sure, pairs, strict=True)]
    assert log_loss(confidence, right) == pytest.approx(np.mean(losses))


def test_bootstrap_of_a_mean_is_scipys():
    values = np.random.default_rng(1).normal(size=80)
    low, high = bootstrap(lambda x: float(np.mean(x)), values, draws=4000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=2)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.03)
    assert bootstrap(lambda x: float(np.mean(x)), values[:1]) is None


@pytest.mark.filterwarnings("ignore:The BCa confidence interval")
def test_what_is_no_number_in_any_draw_has_no_bounds():
    assert bootstrap(lambda x: math.nan, np.ones(3)) is None


def test_bootstrap_keeps_a_questions_values_together():
    a = np.random.default_rng(0).normal(size=50)
    assert bootstrap(lambda x, y: float(np.mean(x - y)), a, a - 1) == pytest.approx((1, 1))


def test_mcnemar_is_the_exact_sign_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert mcnemar(10, 2) == pytest.approx(2 * tail)


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="lies in"):
        ece(np.array([1.2]), np.array([True]))
    with pytest.raises(ValueError, match="confidences for"):
        brier(np.array([0.2]), np.array([True, False]))


@pytest.mark.parametrize(
    ("confidence", "right", "rank", "state"),
    [
        (0.5, True, 1, "knows"),
        (0.49, True, 1, "unsure"),
        (0.5, False, 3, "misled"),
        (0.49, False, 3, "in reach"),
        (0.1, False, None, "unknown"),
        (0.0, False, None, "unknown"),
    ],
)
def test_states(confidence, right, rank, state):
    assert state_of({"confidence": confidence, "best_right": right, "rank": rank}) == state


def test_margin_in_nats():
    assert margin({"p_aliases": 0.5, "p_falsehood": 0.25}) == pytest.approx(math.log(2))
    assert margin({"p_aliases": 0.5, "p_falsehood": None}) is None
    assert margin({"p_aliases": 0.0, "p_falsehood": 0.25}) is None
