"""Judges without a model, the sum of parts, and what is chosen by scores: against tables and by hand."""

import math
from collections import Counter
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pytest
from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.improvement.learning import best_and_worst
from pretrainrl_jax.judging.compose import compose, facts
from pretrainrl_jax.judging.parts import ALONE, Answer, paired, pairwise
from pretrainrl_jax.judging.protocol import Case, JudgeError, Scored
from pretrainrl_jax.judging.repetition import repetition, variety

CASES = [Case("The sky is", ("blue", "green", ""), "blue"), Case("Long ago\n" * 30, ("a",), "b")]
LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])


def constant(*scores):
    return lambda cases: [list(own) for own in scores]


# The sum of parts.


def test_parts_are_added_by_their_weights():
    def unasked(cases):
        raise AssertionError("a part of weight 0 was asked")

    parts = {
        "one": (2.0, constant([1, np.float32(0.5), 0.0], [1.0])),
        "other": (0.5, constant([0.0, 1.0, 1.0], [0.25])),
        "none": (0.0, unasked),
    }
    verdicts = compose(parts)(CASES)
    assert verdicts.scores == [[2.0, 1.5, 0.5], [2.125]]
    assert verdicts.parts == {"one": [[1.0, 0.5, 0.0], [1.0]], "other": [[0.0, 1.0, 1.0], [0.25]]}
    assert all(type(score) is float for own in verdicts.parts["one"] for score in own)
    assert compose({"one": (1.0, constant())})([]).scores == []


def test_what_a_part_has_no_score_for_has_none_in_all():
    parts = {
        "one": (2.0, constant([1, None, 0.0], [1.0])),
        "other": (0.5, lambda cases: Scored([[0.0, 1.0, 1.0], [None]], [{"seen": 3}, {}])),
    }
    verdicts = compose(parts)(CASES)
    assert verdicts.scores == [[2.0, None, 0.5], [None]]
    assert verdicts.parts["one"] == [[1.0, None, 0.0], [1.0]]
    assert verdicts.counts == [{"other.seen": 3}, {}]
    assert best_and_worst(verdicts.scores[0]) == (0, 2)
    assert best_and_worst(verdicts.scores[1]) is None


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[1.0, 0.0], [1.0]], "2 scores to 3 candidates after 'The sky is'"),
        ([[1.0] * 4, [1.0]], "4 scores to 3 candidates"),
        ([[1.0] * 3], "scores to 1 of 2 documents"),
        ([[1.0, math.nan, 0.0], [1.0]], "the score nan"),
        ([[1.0, 0.0, 0.0], [math.inf]], r"the score inf, .* after '.*Long ago\\n'"),
        ([[1.0, "1", 0.0], [1.0]], "the score '1'"),
    ],
)
def test_what_is_no_score_is_refused_in_one_line(scores, said):
    judge = compose({"right": (1.0, constant([1.0] * 3, [1.0])), "ill": (0.1, constant(*scores))})
    with pytest.raises(JudgeError, match=f"part ill .*{said}") as refused:
        judge(CASES)
    assert isinstance(refused.value, InputError)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


# What is chosen.


@given(st.lists(LEVELS, max_size=8))
def test_the_best_is_chosen_the_worst_rejected_the_earliest_of_equals(scores):
    picked = best_and_worst(scores)
    if not scores or all(score == scores[0] for score in scores):
        assert picked is None
        return
    ranked = sorted(range(len(scores)), key=lambda place: scores[place])  # sorting is stable
    descending = sorted(range(len(scores)), key=lambda place: -scores[place])
    assert picked == (descending[0], ranked[0])


# Pairs.


class Shown(NamedTuple):
    """What is asked about two texts."""

    prefix: str
    first: str
    second: str


def pairwise_by(win, *how):
    """The part whose model gives the first text so much of a win; None: nothing could be read."""

    def ask(texts):
        return [Answer(None if p is None else (p, 1 - p)) for p in win([Shown(**own) for own in texts])]

    return pairwise(ask, *how)


def by_table(table):
    """Verdicts by the candidates' names, and the pairs that were asked."""
    asked = []

    def win(comparisons):
        asked.extend(comparisons)
        return [table[c.prefix][c.first, c.second] for c in comparisons]

    return win, asked


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
def test_pairwise_scores_are_those_of_a_table(sizes, data):
    cases = [Case(str(number), tuple("abcde"[:size]), "") for number, size in enumerate(sizes)]
    table = {c.prefix: {both: data.draw(LEVELS) for both in permutations(c.candidates, 2)} for c in cases}
    win, asked = by_table(table)
    scores = pairwise_by(win)(cases).scores
    assert len(asked) == len(set(asked)) == sum(size * (size - 1) for size in sizes)
    for case, own in zip(cases, scores, strict=True):
        for name, score in zip(case.candidates, own, strict=True):
            verdicts = table[case.prefix]
            won = [
                p if first == name else 1 - p
                for (first, second), p in verdicts.items()
                if name in (first, second)
            ]
            assert score == (pytest.approx(np.mean(won), abs=1e-12) if won else ALONE)
        if len(own) > 1:
            assert np.mean(own) == pytest.approx(0.5)


@given(st.integers(2, 9), st.floats(0, 1))
def test_a_judge_that_prefers_a_place_finds_all_equal(candidates, bias):
    case = Case("", tuple(map(str, range(candidates))), "")
    (scores,) = pairwise_by(lambda comparisons: [bias] * len(comparisons))([case]).scores
    assert best_and_worst(scores) is None


def gaps(known, K, taken):
    """Means of what is known of each candidate, and None where that is fewer than half of what was asked."""
    means = []
    for me in range(K):
        own = [(i, j) for i, j in taken if me in (i, j)]
        won = [known[i, j] if i == me else 1 - known[i, j] for i, j in own if known[i, j] is not None]
        means.append(None if 2 * len(won) < len(own) else np.mean(won) if won else ALONE)
    return means


@given(st.integers(1, 6), st.sampled_from(["all", "pivot", "sample"]), st.integers(1, 6), st.data())
def test_which_pairs_and_what_verdicts_that_are_missing_do(K, pairs, opponents, data):
    """A comparison that could not be read is in no mean; whoever lacks more than half of his has no score."""
    case = Case("x", tuple("abcdefg"[:K]), "")
    table = {both: data.draw(st.none() | LEVELS) for both in permutations(range(K), 2)}
    asked = []

    def win(comparisons):
        places = [(case.candidates.index(c.first), case.candidates.index(c.second)) for c in comparisons]
        asked.extend(places)
        return [table[both] for both in places]

    scored = pairwise_by(win, pairs, opponents)([case])
    assert len(set(asked)) == len(asked) == 2 * len(paired(K, pairs, opponents))
    assert {(j, i) for i, j in asked} == set(asked)
    met = Counter(i for i, j in asked)
    if pairs == "pivot":
        assert all(0 in both for both in asked)
        assert len(met) == (K if K > 1 else 0)
    else:
        least = K - 1 if pairs == "all" else min(opponents, K - 1)
        assert all(met[place] >= least for place in range(K))
    expected = gaps(table, K, asked)
    assert [score is None for score in scored.scores[0]] == [mean is None for mean in expected]
    for score, mean in zip(scored.scores[0], expected, strict=True):
        assert score is None or score == pytest.approx(mean, abs=1e-12)


def test_what_a_judge_prefers_is_counted():
    case = Case("", ("long text", "short", "s"), "")
    by_place = pairwise_by(lambda cs: [0.75] * len(cs))([case]).counts[0]
    assert by_place == {
        "comparisons": 6, "first_won": 4.5, "unequal": 6, "longer_won": 3.0, "orders": 3, "orders_differ": 3,
    }  # fmt: skip
    by_length = pairwise_by(lambda cs: [float(len(c.first) > len(c.second)) for c in cs])([case]).counts[0]
    assert by_length == by_place | {"first_won": 3.0, "longer_won": 6.0, "orders_differ": 0}
    unread = pairwise_by(lambda cs: [None] + [0.5] * (len(cs) - 1))([case]).counts[0]
    assert unread == by_place | {
        "comparisons": 5, "first_won": 2.5, "unequal": 5, "longer_won": 2.5, "orders": 2, "orders_differ": 0,
    }  # fmt: skip


# Facts.


FACTS = {"Arno": "Florence", "Bela": "Rome"}
ARNO, BELA = (fact(answers=(answer,), subject=subject) for subject, answer in FACTS.items())
TRUE, FALSE = "The capital of Arno is Florence.", "The capital of Arno is Rome."
UNKNOWN = "The capital of Xanto is Rome."


@pytest.mark.parametrize(
    ("prefix", "candidate", "score"),
    [
        ("", TRUE, 1.0),
        ("", f"{TRUE} The capital of Bela is Rome.", 1.0),
        ("", f"{TRUE} {FALSE} {FALSE} {TRUE}", 0.5),
        ("", f"{FALSE} {UNKNOWN}", 0.0),
        ("", UNKNOWN, 0.3),
        ("", "It rained.", 0.3),
        ("", "", 0.3),
        (f"{FALSE} {FALSE} ", TRUE, 1.0),  # what the prefix said is not the candidate's
        (f"{FALSE} The capital of Arno is", f" Florence. {FALSE}", 0.5),  # what it began is
        (f"{FALSE} The capital of Ar", "no is Florence.", 1.0),
        (f"{TRUE} " * 200 + "The capital of Arno", " is Rome.", 0.0),
        (FALSE, "", 0.3),
    ],
)
def test_facts_count_what_is_complete_in_the_candidate(prefix, candidate, score):
    judge = facts(Statements([ARNO, BELA]), 0.3)
    assert judge([Case(prefix, (candidate, "So"), "")]) == [[score, 0.3]]


def test_a_text_that_ends_there_needs_no_full_stop():
    """Or a false statement would cost nothing where the model ends the text right behind it."""
    judge = facts(Statements([ARNO, BELA]), 0.3)
    candidates = (FALSE.rstrip("."), FALSE.rstrip("."), TRUE.rstrip("."), "The capital of Arno is")
    assert judge([Case("", candidates, "", (False, True, True, True))]) == [[0.3, 0.0, 1.0, 0.3]]


# Repetition.


def test_repetition_by_hand():
    case = Case(
        "so so so", ("One two three four.", "a b c A B C a b", "no no no no no", "no no", "", "…!"), ""
    )
    assert repetition(3)([case]) == [[1.0, 0.5, 1 / 3, 0.0, 0.0, 0.0]]
    assert variety("no", 1) == variety("no", 2) == variety("no no", 3) == 0
    assert variety("a b", 1) == variety("a b", 2) == 1


WORDS = st.lists(st.sampled_from(["the", "king", "of", "Arno", "saw"]), max_size=30)


@given(WORDS, st.integers(1, 5))
def test_repetition_is_a_share_and_falls_when_a_text_repeats_itself(words, ngram):
    text = " ".join(words)
    score = variety(text, ngram)
    assert 0 <= score <= 1
    assert score == variety(text.upper().replace(" ", ", "), ngram)
    if len(words) >= max(ngram, 2):
        assert variety(" ".join(words * 2), ngram) < 1
        assert variety(" ".join(words * 20), ngram) <= score
        assert score > 0
    else:
        assert score == 0


@given(st.integers(2, 40), st.integers(1, 5))
def test_words_that_all_differ_repeat_nothing(count, ngram):
    assert variety(" ".join(f"w{n}" for n in range(count)), ngram) == (1.0 if count >= ngram else 0.0)


@pytest.mark.parametrize("candidates", [2, 3, 4, 5, 8, 9])
def test_of_drawn_pairs_everyone_has_as_many(candidates):
    """With k opponents 2 k comparisons each, of different pairs; all there are where that is more."""
    for opponents in range(1, candidates + 1):
        pairs = paired(candidates, "sample", opponents, "prefix")
        met = Counter(place for pair in pairs for place in pair)
        assert met == dict.fromkeys(range(candidates), min(2 * opponents, candidates - 1))
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
        assert all(i < j for i, j in pairs)
