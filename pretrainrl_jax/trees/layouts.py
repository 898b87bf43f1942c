"""How a tree is laid into a row: the question once with all its answers, or the paper's literal template.

Both give the same losses and gradients; the literal one reads the question twice for each negative. It stays
as an oracle, and for those who want the paper's exact form.
"""

from dataclasses import replace
from typing import Literal, NamedTuple

from pretrainrl_jax.trees.rows import COPY, GOLD, NEGATIVE
from pretrainrl_jax.trees.tree import AnswerTree, Branch

Layout = Literal["shared", "literal"]


class Piece(NamedTuple):
    """Tokens that see one another: a prefix, and branches of which each sees the prefix and itself."""

    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]
    asked: bool = True  # the prefix's own tokens are predicted, and it has a slot
    gap: int = 0  # padding laid before it


class Size(NamedTuple):
    """What a tree takes of a row."""

    inputs: int
    targets: int
    slots: int


def pieces(tree: AnswerTree, layout: Layout) -> list[Piece]:
    """The pieces of a tree, in the order they are laid.

    "shared": one piece. "literal": `{Question}{gold}<pad>{Question}{negative}` for each negative
    (PretrainRL, arXiv 2602.01875, template), where the negative never sees the gold answer and positions
    restart, as the paper leaves open. Only the first pair's question and gold answer count for next-token
    prediction; the others' gold answers are copies that DPO reads.
    """
    negatives = [b for b in tree.branches if b.kind == NEGATIVE]
    if layout == "shared" or not negatives:
        return [Piece(tree.prefix, tree.branches)]
    (gold,) = (b for b in tree.branches if b.kind == GOLD)
    copy = replace(gold, kind=COPY)
    laid = []
    for number, negative in enumerate(negatives):
        laid.append(Piece(tree.prefix, (copy if number else gold,), asked=number == 0))
        laid.append(Piece(tree.prefix, (negative,), asked=False, gap=1))
    return laid


def size(tree: AnswerTree, layout: Layout) -> Size:
    """The inputs, targets and slots of a tree; of the shared layout they are the tree's own."""
    if layout == "shared":
        return Size(tree.inputs, tree.targets, tree.slots)
    laid = pieces(tree, layout)
    return Size(
        inputs=sum(p.gap + len(p.prefix) + sum(len(b.tokens) - 1 for b in p.branches) for p in laid),
        targets=sum(p.asked * max(len(p.prefix) - 1, 0) + _predicted(p) for p in laid),
        slots=sum(p.asked + len(p.branches) for p in laid),
    )


def _predicted(piece: Piece) -> int:
    """Targets of a piece's branches: with nothing before it, a branch's first token is not predicted."""
    return sum(len(b.tokens) - (not piece.prefix) for b in piece.branches)
