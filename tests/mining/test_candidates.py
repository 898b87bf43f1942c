import math
from collections import Counter

import pytest
from helpers.models_and_trees import fact
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import known_truths, normalise, overlaps
from pretrainrl_jax.mining.candidates import (
    REASONS,
    Candidate,
    Rules,
    from_beams,
    from_values,
    popular_values,
    some_of,
    without_repeats,
)

FACT = fact(answers=("Quebec City", "Qu\u00e9bec"))
SIBLING = fact(id="2", answers=("Trois-Rivi\u00e8res",))  # another truth of the same subject and relation
ELSEWHERE = fact(id="3", answers=("Montreal",), subject_key="Q2", question="Of Arno in Ohio?")
KNOWN = known_truths([FACT, SIBLING, ELSEWHERE])


def answer(text, logp=-1.0, finished=True) -> Answer:
    return Answer(text, (1, 2), logp, finished, score=logp - 1)


def choose(*answers, **changes) -> tuple[list[str], dict[str, int]]:
    rules = Rules(KNOWN, **({"count": 5, "min_probability": 0.0, "drop_overlapping": True} | changes))
    dropped: Counter[str] = Counter()
    kept = from_beams(answers, "beam", FACT, rules, dropped)
    assert {c.source for c in kept} <= {"beam"}
    return [c.text for c in kept], dict(dropped)


@pytest.mark.parametrize(
    ("reason", "answers", "kept", "changes"),
    [
        ("unfinished", [answer("Rome", finished=False), answer("Rome")], ["Rome"], {}),
        ("empty", [answer("")], [], {}),
        ("empty", [answer("?!")], [], {}),
        ("duplicate", [answer("Rome", -1), answer("the rome.", -2)], ["Rome"], {}),
        ("duplicate", [answer("Rome", -9), answer("ROME", -9)], [], {"min_probability": 0.5}),
        ("known_true", [answer("quebec city!")], [], {}),
        ("known_true", [answer("Trois-Rivi\u00e8res")], [], {}),
        ("overlaps", [answer("Old Quebec City")], [], {}),
        ("overlaps", [answer("City")], [], {}),
        ("below_threshold", [answer("Rome", math.log(0.09))], [], {"min_probability": 0.1}),
        ("beyond_count", [answer("Rome"), answer("Oslo")], ["Rome"], {"count": 1}),
        ("beyond_count", [answer("Rome")], [], {"count": 0}),
    ],
)
def test_each_reason(reason, answers, kept, changes):
    candidates, dropped = choose(*answers, **changes)
    assert reason in REASONS
    assert candidates == kept
    assert dropped.pop(reason) == 1
    assert sum(dropped.values()) == len(answers) - len(kept) - 1


def test_what_no_rule_takes_is_kept():
    texts = ["Montreal", "Rome", "Cityscape"]  # true of another subject; false; not on word boundaries
    assert choose(*map(answer, texts)) == (texts, {})
    assert choose(answer("City"), drop_overlapping=False) == (["City"], {})
    assert choose(answer("Rome", math.log(0.11)), min_probability=0.1) == (["Rome"], {})


def test_the_most_probable_spelling_is_kept_and_what_is_dropped_leaves_no_gap():
    beams = [answer("Quebec City"), answer("Rome", -2), answer("rome", -3), answer("Oslo", -4)]
    assert choose(*beams, count=2) == (["Rome", "Oslo"], {"known_true": 1, "duplicate": 1})


def test_counts_are_added_to_what_is_there():
    dropped = Counter({"empty": 3})
    from_beams([answer("")], "beam", FACT, Rules(KNOWN, drop_overlapping=True), dropped)
    assert dropped["empty"] == 4


WORDS = st.lists(st.sampled_from(["quebec", "City", "the", "Rome", "rome!", "Oslo", "?"]), max_size=3)
BEAMS = st.lists(
    st.builds(answer, WORDS.map(" ".join), st.floats(-8, 0), st.booleans()),
    max_size=12,
)


@settings(deadline=None)
@given(BEAMS, st.integers(0, 4), st.sampled_from([0.0, 0.01, 0.3]), st.booleans())
def test_kept_are_distinct_finished_falsehoods_in_order_and_all_others_are_counted(
    beams, count, min_probability, drop_overlapping
):
    dropped: Counter[str] = Counter()
    kept = from_beams(beams, "beam", FACT, Rules(KNOWN, drop_overlapping, min_probability, count), dropped)
    truths = {normalise(a) for f in (FACT, SIBLING) for a in f.answers}
    assert len(kept) + dropped.total() == len(beams)
    assert set(dropped) <= set(REASONS)
    assert len(kept) <= count
    assert dropped["unfinished"] == sum(not a.finished for a in beams)
    assert len({normalise(c.text) for c in kept}) == len(kept)

    def eligible(a: Answer) -> bool:
        return (
            a.finished
            and normalise(a.text) not in truths | {""}
            and not (drop_overlapping and any(overlaps(a.text, t) for t in truths))
        )

    # The oracle: the first finished beam of each text, those that may be negatives, the first `count`.
    distinct = {}
    for a in beams:
        if a.finished:
            distinct.setdefault(normalise(a.text), a)
    wanted = [a for a in distinct.values() if eligible(a) and math.exp(a.logp) >= min_probability]
    assert kept == [Candidate(a.text, "beam", a.score) for a in wanted[:count]]


def test_values_are_filtered_for_each_question_in_their_order():
    dropped: Counter[str] = Counter()
    values = ["Oslo", "quebec city", "Montreal", "City", "?", "Rome"]
    kept = from_values(values, "pool", FACT, Rules(KNOWN, True), dropped)
    assert [(c.text, c.source) for c in kept] == [(v, "pool") for v in ("Oslo", "Montreal", "Rome")]
    assert all(math.isnan(c.logp) for c in kept)
    assert dropped == {"known_true": 1, "overlaps": 1, "empty": 1}


def test_an_answer_belongs_to_the_first_source_that_names_it():
    dropped = {"beam": Counter(), "pool": Counter()}
    of_beams = [Candidate("Rome", "beam", -1.0)]
    kept = without_repeats([of_beams, [Candidate("rome!", "pool"), Candidate("Oslo", "pool")]], dropped)
    assert [(c.text, c.source) for c in kept] == [("Rome", "beam"), ("Oslo", "pool")]
    assert (dropped["beam"].total(), dropped["pool"]) == (0, {"duplicate": 1})


def test_popular_values_are_the_best_known_share_of_each_category():
    made = [fact(id=str(i), answers=(f"city {i % 10}",), answer_popularity=float(i % 10)) for i in range(30)]
    made += [fact(id=f"r{i}", category="river", answers=(f"river {min(i, 4)}",)) for i in range(20)]
    values = popular_values(made, 0.2)
    assert values["capital"] == ["city 9", "city 8"]  # as the source says
    assert values["river"] == ["river 4"]  # as often as it is the answer; a fifth of five
    assert popular_values(made, 0.01)["capital"] == ["city 9"]
    assert popular_values(made, 1.0)["river"] == ["river 4", *(f"river {i}" for i in range(4))]


def test_popular_candidates_are_drawn_by_seed_and_question():
    values = [str(i) for i in range(50)]
    drawn = some_of(values, 5, FACT, 0)
    assert drawn == some_of(values, 5, FACT, 0)
    assert len(set(drawn)) == 5
    assert drawn != some_of(values, 5, FACT, 1)
    assert drawn != some_of(values, 5, SIBLING, 0)
    assert sorted(some_of(values[:3], 5, FACT, 0)) == values[:3]
