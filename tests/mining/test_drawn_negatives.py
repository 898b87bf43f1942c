"""Draws of negatives: fair, the same for the same (seed, epoch, question), and no larger than is foretold."""

import dataclasses
from collections import Counter

import numpy as np
from helpers.models_and_trees import END, trees
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.mining.draw import draw_negatives, longest
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.packing import pack
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair


def with_negatives(count: int, *sources: str, id: str = "q") -> AnswerTree:
    """A tree of `count` negatives from each source, every branch of another token."""
    made = [Branch((1, END), "chosen")]
    made += [
        Branch((2 + i, END), "rejected", source=s)
        for i, s in enumerate(s for s in sources for _ in range(count))
    ]
    return AnswerTree(id, (1,), tuple(made))


@given(st.integers(0, 8), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3))
def test_a_draw_keeps_gold_order_and_the_number_asked_for(count, negatives, seed, epoch):
    made = with_negatives(count, "beam", "pool")
    drawn = draw_negatives(made, negatives, seed, epoch)
    assert drawn == draw_negatives(made, negatives, seed, epoch)
    assert drawn.branches[0] == made.branches[0]
    assert len(drawn.branches) - 1 == (min(negatives, 2 * count) or 2 * count)
    assert [b for b in made.branches if b in drawn.branches] == list(drawn.branches)
    by_source = Counter(b.source for b in drawn.branches[1:])
    assert 0 <= by_source["beam"] - by_source["pool"] <= 1  # equal parts, the odd one to the first


def test_what_one_source_lacks_the_others_give():
    made = with_negatives(6, "pool")
    made = dataclasses.replace(
        made, branches=(*made.branches[:1], Branch((99, END), "rejected", source="beam"), *made.branches[1:])
    )
    assert Counter(b.source for b in draw_negatives(made, 5, 0, 0).branches[1:]) == Counter(beam=1, pool=4)


def test_draws_are_fair_and_differ_by_seed_epoch_and_question():
    made = with_negatives(20, "pool")
    often = Counter(b.tokens for epoch in range(2000) for b in draw_negatives(made, 5, 0, epoch).branches[1:])
    assert len(often) == 20
    assert all(abs(n - 500) < 6 * (500 * 0.75) ** 0.5 for n in often.values())
    other = draw_negatives(dataclasses.replace(made, id="r"), 5, 0, 0).branches
    assert (
        len(
            {
                draw_negatives(made, 5, 0, 0).branches,
                draw_negatives(made, 5, 1, 0).branches,
                draw_negatives(made, 5, 0, 1).branches,
                other,
            }
        )
        == 4
    )


def test_each_pass_draws_anew_and_rows_hold_what_was_drawn():
    made = [with_negatives(20, "pool", id=str(i)) for i in range(30)]
    source = PackedRows(made, 32, 3, 2, 2, visit=lambda tree, epoch: draw_negatives(tree, 5, 3, epoch))
    draws = [Counter(), Counter()]
    for index in range(len(source.plan)):
        row = source[index]
        epoch = int(index >= len(source.plan) / 2)
        expected = [draw_negatives(made[i], 5, 3, epoch) for i in source.plan[index]]
        for found_of, wanted in zip(row, pack([expected], source.capacity), strict=True):
            np.testing.assert_array_equal(found_of, wanted)
        draws[epoch].update(
            {made[i].id: draw_negatives(made[i], 5, 3, epoch).branches for i in source.plan[index]}.items()
        )
    assert all(len(draw_counts) == 30 for draw_counts in draws)
    assert len(draws[0] & draws[1]) < 3


@given(trees(), st.integers(0, 4), st.sampled_from(["shared", "literal"]), st.integers(0, 5))
def test_longest_bounds_every_draw(made, negatives, layout, epoch):
    taken = size(draw_negatives(made, negatives, 0, epoch), layout).time
    assert taken <= longest(made, negatives, layout)
    if not negatives:
        assert taken == longest(made, 0, layout)


def test_named_pairs_of_what_is_drawn_stay_and_other_roles_are_not_drawn():
    made = with_negatives(4, "pool")
    more = (Branch((50, END), "candidate"), Branch((51, END), "anchor"))
    branches = (*more, *made.branches)  # the chosen one is 2, its negatives are 3 to 6
    pairs = (Pair(2, 3), Pair(0, 4, 2.0), Pair(2, 5, 0.5), Pair(6, 1), Pair(0, 1))
    made = AnswerTree("q", (1,), branches, pairs)
    seen = set()
    for epoch in range(30):
        drawn = draw_negatives(made, 2, 0, epoch)
        assert drawn.branches[:3] == branches[:3]
        left = [branches.index(b) for b in drawn.branches]
        named = [(left[p.chosen], left[p.rejected], p.weight) for p in drawn.pairs]
        assert named == [tuple(p) for p in pairs if {p.chosen, p.rejected} <= set(left)]
        seen.add(tuple(left))
    assert len(seen) == 6
