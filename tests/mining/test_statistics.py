"""Mining's metrics against sums by hand."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import known_truths
from pretrainrl_jax.mining.pools import Agreement
from pretrainrl_jax.mining.statistics import answer_diversity, describe, share_of
from pretrainrl_jax.trees.tree import AnswerTree, Branch


def answer(text: str, p: float, finished: bool = True) -> Answer:
    return Answer(text, (1,), math.log(p), finished)


def test_entropy_is_that_of_the_distinct_finished_answers():
    assert answer_diversity([]) == (0, 0.0)
    assert answer_diversity([answer("Rome", 0.2)]) == (1, 0.0)
    beams = [answer("Rome", 0.2), answer("rome.", 0.1), answer("Oslo", 0.2), answer("Bonn", 0.4, False)]
    assert answer_diversity(beams) == (2, pytest.approx(math.log(2)))


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
def test_entropy_against_its_definition(probabilities):
    count, entropy = answer_diversity([answer(f"a{i}", p) for i, p in enumerate(probabilities)])
    p = np.array(probabilities) / np.sum(probabilities)
    assert count == len(p)
    assert entropy == pytest.approx(-sum(x * math.log(x) for x in p), abs=1e-9)


def test_negatives_that_are_the_answers_of_the_examples():
    trees = [
        AnswerTree("1", (1,), tuple(Branch((2, 3), "rejected", text) for text in ("Rome", "the Pisa"))),
        AnswerTree("2", (1,), (Branch((2, 3), "chosen", "Oslo"), Branch((2, 3), "rejected", "Bonn"))),
    ]
    assert share_of(["pisa", "Oslo"], trees) == pytest.approx(1 / 3)
    assert share_of([], trees) is None
    assert share_of(["pisa"], []) is None


FACTS = [
    fact(id="1", answers=("Florence",)),
    fact(id="2", answers=("Paris",), subject_key="Q2"),
    fact(id="3", answers=("Seine",), subject_key="Q3", category="river"),
]
DECODED = [
    (FACTS[0], [answer("Rome", 0.5), answer("Florence", 0.2), answer("Oslo", 0.1)]),
    (FACTS[1], [answer("rome", 0.1), answer("Old Paris", 0.2)]),
    (FACTS[2], [answer("Seine", 0.9)]),
]
TREES = [
    AnswerTree(
        "1",
        (1,),
        (
            Branch((2, 9), "chosen", "Florence", reference_logp=-1.0),
            Branch((3, 9), "rejected", "Rome", reference_logp=math.log(0.5), source="beam"),
            Branch((4, 5, 9), "rejected", "Oslo", reference_logp=math.log(0.25), source="pool"),
        ),
    ),
    AnswerTree(
        "2",
        (1,),
        (
            Branch((6, 9), "chosen", "Paris", reference_logp=-1.0),
            Branch((3, 9), "rejected", "Rome", reference_logp=math.log(0.1), source="beam"),
        ),
    ),
    AnswerTree("3", (1,), (Branch((7, 9), "chosen", "Seine", reference_logp=-1.0),)),
]


def test_every_figure():
    dropped = {"beam": Counter(known_true=2, overlaps=1), "pool": Counter()}
    described = describe(
        FACTS,
        TREES,
        DECODED,
        known_truths(FACTS),
        dropped,
        {"capital": ["Rome", "Oslo"]},
        {"capital": Agreement(1, 2, 0.9, math.nan)},
    )
    described = json.loads(json.dumps(described, allow_nan=False))  # plain values, and no NaN
    assert (described["questions"], described["trees"], described["decoded"]) == (3, 3, 3)
    assert (described["negatives"], described["by_source"]) == (3, {"beam": 2, "pool": 1})
    assert (described["with_negatives"], described["without_negatives"]) == (2, 1)
    assert described["distinct_answers"] == 2.0
    assert described["distinct_histogram"] == {"1": 1, "2": 1, "3": 1}
    entropies = [answer_diversity(answers)[1] for _, answers in DECODED]
    assert described["entropy"] == pytest.approx(np.mean(entropies))
    assert described["perplexity"] == pytest.approx((0.5 * 0.25 * 0.1) ** (-1 / 7))
    assert described["dropped"]["beam"] == {"known_true": 2, "overlaps": 1}
    capital, river = described["categories"]["capital"], described["categories"]["river"]
    assert list(described["categories"]) == ["capital", "river"]  # the largest first
    assert (capital["questions"], capital["without_negatives"]) == (2, 0)
    assert (capital["example"], river["example"]) == (FACTS[0].question, FACTS[2].question)
    # Florence is true of its question and "Old Paris" neither true nor false of the other.
    assert capital["falsehoods"] == [
        {"text": "Rome", "questions": 2, "probability": 0.3},
        {"text": "Oslo", "questions": 1, "probability": 0.1},
    ]
    assert capital["pool"] == ["Rome", "Oslo"]
    assert capital["agreement"] == {"questions": 1, "of": 2, "cosine": 0.9, "spearman": None}
    assert (river["without_negatives"], river["falsehoods"], river["pool"]) == (1, [], [])
    assert described["pool_agreement"] == {"questions": 1, "categories": 1, "cosine": 0.9, "spearman": None}
    assert [e["question"] for e in described["examples"]] == [FACTS[0].question, FACTS[1].question]
    assert described["examples"][0]["negatives"] == [["Rome", 0.5], ["Oslo", 0.25]]


def test_nothing_decoded_and_nothing_kept_are_metrics_too():
    described = describe(FACTS, [TREES[2]], [], known_truths(FACTS), {}, {}, {})
    assert (
        described["distinct_answers"]
        is described["entropy"]
        is described["perplexity"]
        is described["pool_agreement"]
        is None
    )
    assert described["negatives"] == 0
    assert described["categories"]["capital"]["falsehoods"] == []
