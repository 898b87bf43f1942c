"""Pools against brute-force counts, their agreement against scipy and NumPy."""

import math
from collections import Counter

import numpy as np
import pytest
from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.mining.pools import Tally, agreement, distinct_answers, most_often, tally


def answer(text: str, p: float = 0.5, finished: bool = True) -> Answer:
    return Answer(text, (1,), math.log(p), finished)


def test_a_value_counts_once_a_question_whatever_its_spelling():
    asked = [
        (fact(id="1"), [answer("Rome", 0.5), answer("rome!", 0.2), answer("Oslo", 0.1)]),
        (fact(id="2"), [answer("rome", 0.3), answer("Florence", 0.2)]),  # true, and counted
        (fact(id="3"), [answer("rome", 0.1), answer("Oslo", 0.4, finished=False), answer("?", 0.2)]),
        (fact(id="4", category="river"), [answer("Oslo", 0.25)]),
    ]
    tallies = tally(asked)
    assert {k: (t.questions, pytest.approx(t.probability)) for k, t in tallies["capital"].items()} == {
        "rome": (3, 0.9),
        "oslo": (1, 0.1),
        "florence": (1, 0.2),
    }
    assert tallies["capital"]["rome"].text == "rome"  # the commonest spelling
    assert list(tallies["river"]) == ["oslo"]
    assert most_often(tallies["capital"], 2) == ["rome", "florence"]  # of equals the more probable
    only = tally(asked, lambda fact, answer: fact.id == "1" and answer.text != "Oslo")
    assert list(only["capital"]) == ["rome"]
    assert only["river"] == {}


QUESTIONS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["a", "A!", "b", "c d", ""]), st.floats(0.01, 1), st.booleans()), max_size=5
    ),
    max_size=12,
)


@given(QUESTIONS)
def test_counts_are_those_of_a_loop(questions):
    asked = [(fact(id=str(i)), [answer(*beam) for beam in beams]) for i, beams in enumerate(questions)]
    expected = Counter(
        key for _, beams in asked for key in {normalise(a.text) for a in beams if a.finished} if key
    )
    tallies = tally(asked).get("capital", {})
    assert {key: t.questions for key, t in tallies.items()} == expected
    ranked = most_often(tallies, 3)
    assert [expected[k] for k in ranked] == sorted(expected.values(), reverse=True)[:3]
    for _, beams in asked:
        kept = distinct_answers(beams)
        assert all(kept[normalise(a.text)] is a for a in kept.values())


def tallies(**counts: int) -> dict[str, Tally]:
    return {key: Tally(n, n / 10, Counter([key])) for key, n in counts.items()}


def test_agreement_is_cosine_and_spearman_over_both_pools():
    full = tallies(a=90, b=70, c=50, d=20, e=5)
    sample = tallies(a=9, b=5, c=6, f=3)
    cosine, spearman = agreement(full, sample, 3)  # both pools are a, b, c
    x, y = np.array([90.0, 70, 50]), np.array([9.0, 5, 6])
    assert cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert spearman == pytest.approx(spearmanr(x, y).statistic)
    cosine, spearman = agreement(full, sample, 4)  # d is only in one, f only in the other
    x, y = np.array([90.0, 70, 50, 20, 0]), np.array([9.0, 5, 6, 0, 3])
    assert cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert spearman == pytest.approx(spearmanr(x, y).statistic)
    assert agreement(full, full, 5) == (pytest.approx(1), pytest.approx(1))


def test_agreement_is_undefined_where_a_ranking_is_flat_or_empty():
    cosine, spearman = agreement(tallies(a=3, b=3), tallies(a=1, b=1), 2)
    assert cosine == pytest.approx(1)
    assert math.isnan(spearman)
    assert math.isnan(agreement(tallies(a=3), {}, 2)[0])
