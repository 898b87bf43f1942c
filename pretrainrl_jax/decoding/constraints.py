"""Which tokens may follow, where only known answers may be decoded: a forest of their tokens as arrays.

A search asks by a state that travels with each beam: any tree of arrays with `allowed` and `advance` will do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DENSE_BYTES = 64 << 20  # nodes with many children have a row of the vocabulary: no more of them than this
FEW = 16  # children that need no row
LEAST = 256  # nodes that there is room for: small sets all share a program
State = Any  # int32 [batch, beams]; None without a constraint


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trie:
    """Only the answers of a set may be decoded, each with its end.

    It holds several sets, each under a root of its own, so that one compiled program serves prompts with
    different sets. Nodes are numbered breadth first, roots before all others: a node's children are
    consecutive, by their tokens. A state is a node, and a prompt begins in the number of its set. After a
    complete answer any terminator may follow, and whatever continues it to a longer one. On a mesh every
    device has all of it.

    Sizes are powers of two, so that forests of like size share a program; the last node is a dead end.
    """

    tokens: Any  # int32 [nodes], what leads to each node
    children: Any  # int32 [nodes + 1], where the children of each node begin; they end where the next begin
    complete: Any  # bool [nodes], whether an answer ends there
    rows: Any  # int32 [nodes], the row of `dense` of a node with more than `few` children, 0 for others
    dense: Any  # bool [rows, vocabulary], which tokens may follow; row 0 has none
    terminators: Any  # bool [vocabulary]
    few: int = field(metadata={"static": True})

    def allowed(self, state: jax.Array, start: Any, size: int) -> jax.Array:
        """Which of the `size` tokens from `start` on, which may be traced, may follow: bool [..., size].

        A row of `dense`, a few tokens more, and terminators after a complete answer.
        """
        ends = jax.lax.dynamic_slice(self.terminators, (start,), (size,))

        def of_node(node: jax.Array) -> jax.Array:
            child = self.children[node] + jnp.arange(self.few)
            listed = (self.rows[node] == 0) & (child < self.children[node + 1])
            place = self.tokens[child] - start
            place = jnp.where(listed & (place >= 0), place, size)  # beyond the end: dropped
            follows = jax.lax.dynamic_slice(self.dense, (self.rows[node], start), (1, size))[0]
            return follows.at[place].set(True, mode="drop") | (self.complete[node] & ends)

        return jnp.vectorize(of_node, signature="()->(n)")(state)

    def advance(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """The child that the token leads to, by bisection; the dead end where there is none."""
        end = self.children[state + 1]

        def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            before = self.tokens[middle] < token
            return jnp.where(before, jnp.minimum(middle + 1, high), low), jnp.where(before, high, middle)

        steps = self.terminators.shape[0].bit_length()  # a node has at most the vocabulary as children
        child, _ = jax.lax.fori_loop(0, steps, halve, (self.children[state], end))
        there = (child < end) & (self.tokens[child] == token)
        return jnp.where(there, child, self.tokens.shape[0] - 1)


def build(
    sets: Sequence[Iterable[Sequence[int]]],
    terminators: np.ndarray,
    few: int = FEW,
    dense_bytes: int = DENSE_BYTES,
) -> Trie:
    """The trie of sets of answers, as NumPy arrays.

    Of each set its answers' token ids, without `terminators`, bool [vocabulary]. A node with more than `few`
    children has a row of the vocabulary: that number is doubled until rows take `dense_bytes` at most. Raises
    ValueError if a set is empty, an answer has no tokens, or one that is a terminator or has no row.
    """
    ordered = sorted({(root, *answer) for root, answers in enumerate(sets) for answer in answers})
    lengths = np.array([len(answer) for answer in ordered], np.int64)
    flat = np.fromiter(chain.from_iterable(ordered), np.int32, count=lengths.sum())
    offsets = np.cumsum(lengths) - lengths
    if not ordered or len({*flat[offsets].tolist()}) < len(sets) or (lengths < 2).any():
        raise ValueError("a set of answers is empty, or holds an answer without tokens")
    follow = np.delete(flat, offsets)
    if follow.min() < 0 or follow.max() >= len(terminators) or terminators[follow].any():
        raise ValueError("an answer holds a terminator, or a token that the vocabulary has not")

    # Depth by depth: answers are sorted, so those that share a beginning stand together.
    nodes, parents, tokens = len(sets), [], []
    node_of = flat[offsets]  # of each answer, how far it was followed
    for depth in range(1, lengths.max()):
        longer = np.flatnonzero(lengths > depth)
        token, parent = flat[offsets[longer] + depth], node_of[longer]
        new = np.r_[True, (parent[1:] != parent[:-1]) | (token[1:] != token[:-1])]
        node_of[longer] = nodes + np.cumsum(new) - 1
        parents.append(parent[new])
        tokens.append(token[new])
        nodes += int(new.sum())
    parent, token = np.concatenate(parents), np.concatenate(tokens)

    size = max(LEAST, _power_of_two(nodes + 1))
    counts = np.bincount(parent, minlength=size)
    while (heavy := _power_of_two(1 + int((counts > few).sum()))) * len(terminators) > dense_bytes:
        if heavy == 1:
            break
        few *= 2
    many = np.flatnonzero(counts > few)
    rows, dense = np.zeros(size, np.int32), np.zeros((heavy, len(terminators)), bool)
    rows[many] = 1 + np.arange(len(many))
    dense[rows[parent], token] = True
    dense[0] = False
    complete = np.zeros(size, bool)
    complete[node_of] = True
    children = len(sets) + np.r_[0, np.cumsum(counts)]
    of_nodes = np.zeros(size, np.int32)
    of_nodes[len(sets) : nodes] = token
    return Trie(of_nodes, children.astype(np.int32), complete, rows, dense, terminators.copy(), few)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
