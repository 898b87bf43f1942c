"""Pools against brute-force counts."""

import math
from collections import Counter

import pytest
from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.mining.pools import distinct_answers, most_often, tally


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
