"""The answer tree: a prefix and several continuations of it. Every method here works on this one record."""

import math
from dataclasses import dataclass

from pretrainrl_jax.trees.rows import GOLD


@dataclass(frozen=True)
class Branch:
    """One continuation, its terminator included."""

    tokens: tuple[int, ...]
    kind: int  # rows.GOLD or rows.NEGATIVE
    text: str = ""
    reference_logp: float = math.nan  # summed log-probability under the reference model; NaN is unscored
    beam_logp: float = math.nan  # as the beam search found it; NaN for a branch that was not found by one
    source: str = ""  # of a negative: "beam", "pool" or "popularity"


@dataclass(frozen=True)
class AnswerTree:
    """A prefix and its branches. A document is a tree with an empty prefix (or BOS) and one branch."""

    id: str
    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]

    @property
    def inputs(self) -> int:
        """Tokens the decoder reads: terminators are predicted and never read."""
        return len(self.prefix) + sum(len(b.tokens) - 1 for b in self.branches)

    @property
    def targets(self) -> int:
        """Tokens that are predicted: all but the first of the prefix, and of a branch without a prefix."""
        if self.prefix:
            return len(self.prefix) - 1 + sum(len(b.tokens) for b in self.branches)
        return sum(len(b.tokens) - 1 for b in self.branches)

    @property
    def slots(self) -> int:
        """Sums of log-probabilities: one for the prefix and one for each branch."""
        return 1 + len(self.branches)


def document(id: str, tokens: tuple[int, ...], bos: int | None) -> AnswerTree:
    """Plain text as a tree: all of it one gold branch, so that next-token training is the same code."""
    return AnswerTree(id, () if bos is None else (bos,), (Branch(tokens, GOLD),))


def gold_only(tree: AnswerTree) -> AnswerTree:
    """The tree without its negatives, for objectives that ignore them."""
    return AnswerTree(tree.id, tree.prefix, tuple(b for b in tree.branches if b.kind == GOLD))
