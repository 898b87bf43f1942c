"""The answer tree: a prefix and several continuations of it. Every method here works on this one record."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

Role = Literal["chosen", "rejected", "candidate", "anchor"]
Measured = float | tuple[float, ...]  # of a whole branch, or of each of its tokens; NaN: not measured


@dataclass(frozen=True)
class Branch:
    """One continuation, its terminator included, and what was measured of it."""

    tokens: tuple[int, ...]
    role: Role = "candidate"
    text: str = ""
    weight: float = 1.0  # beside the other chosen branches of its tree
    reference_logp: Measured = math.nan  # log-probability under the reference model, nats
    behaviour_logp: Measured = math.nan  # under whatever wrote it, as it was written
    advantage: Measured = math.nan
    source: str = ""  # where it comes from: "beam", "pool", "popularity", …

    def __post_init__(self) -> None:
        """Raises ValueError for what no row can hold."""
        for measured in (self.reference_logp, self.behaviour_logp, self.advantage):
            if isinstance(measured, tuple) and len(measured) != len(self.tokens):
                raise ValueError(f"{len(measured)} measurements of a branch of {len(self.tokens)} tokens")
        if not self.tokens or not 0 <= self.weight < math.inf:
            raise ValueError(f"a branch has a token at least, and a weight from 0 on: {self}")


class Pair(NamedTuple):
    """A preference: places of two branches in their tree."""

    chosen: int
    rejected: int
    weight: float = 1.0  # beside the other pairs of the tree


@dataclass(frozen=True)
class AnswerTree:
    """A prefix and its branches. A document is a tree with an empty prefix (or BOS) and one chosen branch.

    Where the source names no pairs (None), every chosen branch is preferred to every rejected one.
    """

    id: str
    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]
    pairs: tuple[Pair, ...] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a pair of what is not there."""
        for pair in self.pairs or ():
            if not all(0 <= p < len(self.branches) for p in pair[:2]) or not 0 <= pair.weight < math.inf:
                raise ValueError(f"tree {self.id} has {len(self.branches)} branches and no {pair}")

    @property
    def inputs(self) -> int:
        """Tokens the decoder reads: terminators are predicted and never read."""
        return len(self.prefix) + sum(len(b.tokens) - 1 for b in self.branches)

    @property
    def preferences(self) -> tuple[Pair, ...]:
        """The pairs that count, named or not, but those of weight 0."""
        if self.pairs is None:
            return tuple(Pair(*both) for both in product(places(self, "chosen"), places(self, "rejected")))
        return tuple(pair for pair in self.pairs if pair.weight)


def total(measured: Measured) -> float:
    """Of a whole branch what was measured of its tokens, or of itself."""
    return math.fsum(measured) if isinstance(measured, tuple) else measured


def places(tree: AnswerTree, role: Role) -> list[int]:
    """Where the branches of a role stand."""
    return [place for place, branch in enumerate(tree.branches) if branch.role == role]


def select(tree: AnswerTree, kept: Iterable[int]) -> AnswerTree:
    """The tree with the branches at these places alone, and the named pairs of which both are left."""
    moved = {place: new for new, place in enumerate(sorted(kept))}
    pairs = tree.pairs and tuple(
        Pair(moved[p.chosen], moved[p.rejected], p.weight)
        for p in tree.pairs
        if p.chosen in moved and p.rejected in moved
    )
    return replace(tree, branches=tuple(tree.branches[place] for place in moved), pairs=pairs)


def chosen_only(tree: AnswerTree) -> AnswerTree:
    """The tree without what only a comparison reads, for objectives that compare nothing."""
    return select(tree, places(tree, "chosen"))


def document(id: str, tokens: tuple[int, ...], bos: int | None) -> AnswerTree:
    """Plain text as a tree: all of it one chosen branch, so that next-token training is the same code."""
    return AnswerTree(id, () if bos is None else (bos,), (Branch(tokens, "chosen"),))
