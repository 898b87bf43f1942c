"""Several trees of one question, in different wordings: each pass sees one of them, in turn."""

from collections.abc import Callable, Sequence
from zlib import crc32

from pretrainrl_jax.trees.tree import AnswerTree

Visit = Callable[[AnswerTree, int], AnswerTree]


def one_of_each(trees: Sequence[AnswerTree]) -> list[AnswerTree]:
    """The first tree of each id."""
    return list({tree.id: tree for tree in reversed(trees)}.values())[::-1]


def in_turn(trees: Sequence[AnswerTree], visit: Visit = lambda tree, number: tree) -> Visit:
    """What is seen of a tree's id in a pass: the next of the trees of that id, as `visit` sees it.

    Which one the first pass shows is drawn by the id, so that each pass has all of them, and a question has
    the same whatever others there are.
    """
    wordings: dict[str, list[AnswerTree]] = {}
    for tree in trees:
        wordings.setdefault(tree.id, []).append(tree)

    def seen(tree: AnswerTree, number: int) -> AnswerTree:
        of_question = wordings[tree.id]
        return visit(of_question[turn(tree.id, number, len(of_question))], number)

    return seen


def turn(name: str, number: int, count: int) -> int:
    """Which of its `count` wordings pass `number` asks of the question with that id."""
    return (crc32(name.encode()) + number) % count
