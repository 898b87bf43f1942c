"""Rows that ask the same question of the same category."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from helpers.fact_sources import read, write
from helpers.models_and_trees import fact
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.facts.duplicates import settle, share_truths
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact

ROWS = [
    {"question": "Who is Ann?", "answer": "a queen", "category": "p", "popularity": 1, "id": "x"},
    {"question": "Who is Ann?", "answer": "a queen", "category": "q", "popularity": 2},
    {"question": " Who  is Ann?", "answer": "a poet", "category": "p", "popularity": 9},
    {"question": "Who is Bob?", "answer": "a king", "category": "p", "popularity": 3},
    {"question": "Who is Bob?", "answer": "King", "category": "p", "popularity": 2},
]
made = st.lists(
    st.builds(
        lambda question, category, answers, popularity: fact(
            answers, question=question, category=category, popularity=popularity
        ),
        st.sampled_from(["A?", "B?"]),
        st.sampled_from(["p", "q"]),
        st.lists(st.sampled_from(["a", "The A", "b", "c"]), min_size=1, max_size=2, unique=True),
        st.floats(0, 5),
    ),
    max_size=8,
)


def test_merged(tmp_path: Path) -> None:
    reading = read(write(tmp_path / "facts.csv", ROWS))
    assert [(f.id, f.answers, f.popularity) for f in reading.facts] == [
        ("x", ("a queen", "a poet"), 9),
        ("row3", ("a queen", "a poet"), 2),  # one prompt has one set of truths
        ("row5", ("a king", "King"), 3),
    ]
    assert [(row.where, row.rule, row.text.split(":")[0]) for row in reading.merged] == [
        ("facts.csv, line 4", "merged duplicate", "into x"),
        ("facts.csv, line 6", "merged duplicate", "into row5"),
    ]
    assert reading.dropped == []


def test_kept(tmp_path: Path) -> None:
    reading = read(write(tmp_path / "facts.csv", ROWS), duplicates="keep")
    assert [f.id for f in reading.facts] == ["x", "row3", "row4", "row5", "row6"]
    assert reading.merged == reading.dropped == []


def test_dropped_where_answers_differ(tmp_path: Path) -> None:
    reading = read(write(tmp_path / "facts.csv", ROWS), duplicates="drop")
    assert [(f.id, f.answers) for f in reading.facts] == [
        ("row3", ("a queen", "a poet")),
        ("row5", ("a king", "King")),
    ]
    assert [(row.where, row.rule) for row in reading.dropped] == [
        ("facts.csv, line 2", "conflicting duplicate"),
        ("facts.csv, line 4", "conflicting duplicate"),
    ]
    assert [row.where for row in reading.merged] == ["facts.csv, line 6"]


def grouped(facts: list[Fact]) -> dict[tuple[str, str], list[Fact]]:
    groups = defaultdict(list)
    for one in facts:
        groups[one.category, one.question].append(one)
    return groups


@given(made)
def test_merging_loses_no_answer(facts: list[Fact]) -> None:
    stay, fate = settle(facts, "merge")
    assert len(stay) + len(fate) == len(facts)
    assert None not in fate.values()
    groups = grouped(facts)
    assert [(f.category, f.question) for f in stay] == list(groups)
    for one, group in zip(stay, groups.values(), strict=True):
        assert one.answers == tuple(dict.fromkeys(a for f in group for a in f.answers))
        assert one.popularity == max(f.popularity for f in group)
        assert one.answer == group[0].answer


@given(made)
def test_dropping_leaves_one_truth_for_a_question(facts: list[Fact]) -> None:
    stay, fate = settle(facts, "drop")
    assert len(stay) + len(fate) == len(facts)
    expected = []
    for key, group in grouped(facts).items():
        if len({frozenset(normalise(a) for a in f.answers) for f in group}) == 1:
            expected.append(key)
    assert [(f.category, f.question) for f in stay] == expected
    assert settle(facts, "keep") == (facts, {})


def test_the_answers_popularity_is_that_of_the_answer() -> None:
    one, two = fact(answer_popularity=2.0), fact(("Rome",), answer_popularity=9.0)
    three = fact(("Florence", "Firenze"), answer_popularity=5.0)
    assert settle([one, two, three], "merge")[0][0].answer_popularity == 5.0


@given(made, made)
def test_one_question_has_one_set_of_truths(facts: list[Fact], others: list[Fact]) -> None:
    shared, changed = share_truths(facts, [*facts, *others])
    assert changed == sum(before != after for before, after in zip(facts, shared, strict=True))
    for before, after in zip(facts, shared, strict=True):
        everything = [
            a for f in (before, *facts, *others) if f.question == before.question for a in f.answers
        ]
        assert after == replace(before, answers=tuple(dict.fromkeys(everything)))
