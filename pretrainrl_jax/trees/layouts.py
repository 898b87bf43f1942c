"""How a tree is laid into a row: the question once with all its answers, or the paper's literal template.

Both give the same losses and gradients; the literal one reads the question twice for each negative. It stays
as an oracle, and for those who want the paper's exact form.
"""

from typing import Literal, NamedTuple

from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair

Layout = Literal["shared", "literal"]


class Piece(NamedTuple):
    """Tokens that see one another: a prefix, and branches of which each sees the prefix and itself."""

    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]
    asked: bool = True  # the first of its tree: the prefix's own tokens are predicted, if they are to be
    copy: bool = False  # its branches stand in an earlier piece, too
    gap: int = 0  # padding laid before it


class Capacity(NamedTuple):
    """What a tree takes of a row, and what a row holds: rows of equal capacities compile once."""

    time: int  # input tokens
    sources: int
    targets: int
    branches: int
    pairs: int


def pieces(tree: AnswerTree, layout: Layout) -> tuple[list[Piece], tuple[Pair, ...]]:
    """The pieces of a tree in the order they are laid, and its pairs as places among their branches.

    "shared": one piece. "literal": `{Question}{chosen}<pad>{Question}{rejected}` for each pair
    (PretrainRL, arXiv 2602.01875, template), where neither answer sees the other and positions restart, as
    the paper leaves open. Only the first pair of a chosen answer counts for next-token prediction; in the
    others stand copies that DPO reads. Answers of no pair stand alone.
    """
    pairs = tree.preferences
    if layout == "shared" or not pairs:
        return [Piece(tree.prefix, tree.branches)], pairs
    laid: list[Piece] = []
    seen: set[int] = set()

    def lay(place: int, gap: int) -> int:
        copy = place in seen
        seen.add(place)
        laid.append(Piece(tree.prefix, (tree.branches[place],), not laid, copy, gap))
        return len(laid) - 1

    placed = tuple(Pair(lay(p.chosen, 0), lay(p.rejected, 1), p.weight) for p in pairs)
    for place in range(len(tree.branches)):
        if place not in seen:
            lay(place, 1)
    return laid, placed


def size(tree: AnswerTree, layout: Layout = "shared", question: bool = True) -> Capacity:
    """What a tree takes of a row; with `question` its prefix's own tokens are predicted."""
    laid, pairs = pieces(tree, layout)
    inputs = sources = targets = branches = 0
    for piece in laid:
        prefix, read = len(piece.prefix), sum(len(b.tokens) - 1 for b in piece.branches)
        asked = question and piece.asked
        inputs += piece.gap + prefix + read
        # With nothing before it, a branch's first token is not predicted, and the last one read predicts it.
        sources += (max(prefix - 1, 0) if asked else 0) + (prefix > 0) + read
        targets += (max(prefix - 1, 0) if asked else 0) + read + (len(piece.branches) if prefix else 0)
        branches += asked + len(piece.branches)
    return Capacity(inputs, sources, targets, branches, len(pairs))
