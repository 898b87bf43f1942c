"""Which wording of a question a pass sees."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.trees.dataset import in_turn, one_of_each
from pretrainrl_jax.trees.tree import AnswerTree, Branch

BRANCH = (Branch((7,), "chosen"),)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 9))
def test_passes_see_all_wordings_of_each_question_in_turn(counts: list[int], first: int) -> None:
    trees = [
        AnswerTree(f"q{question}", (question, wording), BRANCH)
        for question, count in enumerate(counts)
        for wording in range(count)
    ]
    questions, visit = one_of_each(trees), in_turn(trees)
    assert [tree.prefix for tree in questions] == [(question, 0) for question in range(len(counts))]
    for question, count in enumerate(counts):
        seen = [visit(questions[question], number).prefix for number in range(first, first + 2 * count)]
        assert Counter(seen) == {(question, wording): 2 for wording in range(count)}
        assert all(a != b for a, b in pairwise(seen)) or count == 1


def test_a_pass_has_all_wordings_where_there_are_questions_enough() -> None:
    trees = [AnswerTree(f"q{i}", (i, wording), BRANCH) for i in range(900) for wording in range(3)]
    visit = in_turn(trees)
    seen = Counter(visit(tree, 0).prefix[1] for tree in one_of_each(trees))
    assert all(250 < seen[wording] < 350 for wording in range(3))
    # A question has the same in whichever run.
    alone = in_turn(trees[-3:])
    assert [visit(trees[-1], n) for n in range(3)] == [alone(trees[-1], n) for n in range(3)]


def test_what_is_seen_of_a_wording_is_seen_of_that_one() -> None:
    trees = [AnswerTree("q", (wording,), BRANCH) for wording in range(2)]
    visit = in_turn(trees, lambda tree, number: AnswerTree("seen", (*tree.prefix, number), BRANCH))
    first, then, later = (visit(trees[0], number).prefix for number in (0, 1, 5))
    assert (first[1], then[1], later[1]) == (0, 1, 5)
    assert first[0] != then[0] == later[0]
