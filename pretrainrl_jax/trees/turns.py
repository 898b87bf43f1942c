"""Several trees of one question, in different wordings: each pass sees one of them, in turn."""

from collections.abc import Callable, Sequence

from pretrainrl_jax.trees.tree import AnswerTree

Visit = Callable[[AnswerTree, int], AnswerTree]


def one_of_each(trees: Sequence[AnswerTree]) -> list[AnswerTree]:
    """The first tree of each id."""
    return list({tree.id: tree for tree in reversed(trees)}.values())[::-1]


def in_turn(trees: Sequence[AnswerTree], visit: Visit = lambda tree, number: tree) -> Visit:
    """What is seen of a tree's id in a pass: the next of the trees of that id, as `visit` sees it.

    The first pass shows the first wording to one question, the second to the next: each pass has all of them.
    """
    wordings: dict[str, list[AnswerTree]] = {}
    for tree in trees:
        wordings.setdefault(tree.id, []).append(tree)
    places = {name: place for place, name in enumerate(wordings)}

    def seen(tree: AnswerTree, number: int) -> AnswerTree:
        of_question = wordings[tree.id]
        return visit(of_question[(places[tree.id] + number) % len(of_question)], number)

    return seen
