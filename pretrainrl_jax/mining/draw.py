"""Which of a question's negatives one visit of training sees."""

import random

from pretrainrl_jax.trees.layouts import Layout, size
from pretrainrl_jax.trees.tree import AnswerTree, places, select


def draw_negatives(tree: AnswerTree, negatives: int, seed: int, epoch: int) -> AnswerTree:
    """The tree with `negatives` of its rejected branches, drawn at random by (seed, epoch, the tree's id).

    PretrainRL (arXiv 2602.01875) draws 5 from the category's pool. Where negatives come from several sources,
    each gives an equal part, the first named ones one more where that does not come out even, and what one
    lacks the others give. All of them stay where there are no more than that, or `negatives` is 0.
    """
    rejected = places(tree, "rejected")
    if not negatives or len(rejected) <= negatives:
        return tree
    chance = random.Random(f"{seed}/{epoch}/{tree.id}")
    by_source: dict[str, list[int]] = {}
    for place in chance.sample(rejected, len(rejected)):
        by_source.setdefault(tree.branches[place].source, []).append(place)
    waiting = [by_source[s] for s in dict.fromkeys(tree.branches[place].source for place in rejected)]
    left = set(rejected)
    while len(rejected) - len(left) < negatives:
        for of_source in waiting:
            if of_source and len(rejected) - len(left) < negatives:
                left.remove(of_source.pop())
    return select(tree, set(range(len(tree.branches))) - left)


def longest(tree: AnswerTree, negatives: int, layout: Layout) -> int:
    """The most input tokens the tree takes of a row, whichever of its negatives are drawn."""
    longest_first = sorted(places(tree, "rejected"), key=lambda place: -len(tree.branches[place].tokens))
    # Of named pairs, a short branch may be in more than a long one: then none is left out.
    left = longest_first[negatives:] if negatives and tree.pairs is None else ()
    return size(select(tree, set(range(len(tree.branches))).difference(left)), layout).time
