"""Packing: which trees share a row, decided from lengths alone, and the arrays of given trees."""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pretrainrl_jax.trees.batch import CHOSEN, COPY, FIELD_SPECS, PREFIX, ROLES, PackedBatch, blank
from pretrainrl_jax.trees.layouts import Capacity, Layout, pieces, size
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Measured, chosen_only, total

OPEN_ROWS = 64  # rows that still accept trees while packing: more fill better, fewer keep the order random


def plan(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit packing of trees into rows: their places by row, together each once.

    Trees of `lengths` input tokens are taken one after another, each into the open row with the least room
    that still holds it. Raises ValueError if a tree is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row) of the open rows, sorted
    for index, length in enumerate(lengths):
        if length > row_length:
            raise ValueError(f"tree {index} has {length} tokens, a row holds {row_length}")
        at = bisect.bisect_left(room, (length, -1))
        if at < len(room):
            free, row = room.pop(at)
        else:
            free, row = row_length, len(rows)
            rows.append([])
            if len(room) == OPEN_ROWS:
                room.pop(0)  # the fullest row is closed
        rows[row].append(index)
        bisect.insort(room, (free - length, row))
    return rows


def rounded(row_length: int, sources: int, targets: int, branches: int, pairs: int) -> Capacity:
    """The smallest capacity in round numbers that holds as many; of sources no more than there are tokens."""

    def up(n: int, multiple: int) -> int:
        return -(-max(n, 1) // multiple) * multiple

    sources = min(row_length, up(sources, 32))
    return Capacity(row_length, sources, up(targets, 64), up(branches, 16), up(pairs, 16))


def capacity(sizes: Sequence[Capacity], rows: Sequence[Sequence[int]], row_length: int) -> Capacity:
    """The capacity that holds every row of a plan over trees of these sizes."""
    largest = [max((sum(sizes[i][field] for i in row) for row in rows), default=0) for field in range(1, 5)]
    return rounded(row_length, *largest)


def bucketed(n: int) -> int:
    """The first of 1, 2, …, 8, 10, 12, 14, 16, 20, … that holds n: few sizes, at most a quarter too large."""
    step = 1 << max(n.bit_length() - 3, 0)
    return -(-n // step) * step


def in_buckets(size: Capacity) -> Capacity:
    """A capacity of bucketed sizes, so that batches that differ a little compile once."""
    sources, *others = map(bucketed, size[1:])
    return Capacity(size.time, min(size.time, sources), *others)


def bound(
    trees: Iterable[AnswerTree], row_length: int, rejected: int, layout: Layout, question: bool
) -> Capacity:
    """The capacity that holds any row of these trees with other rejected branches than theirs.

    Which is not known yet: a tree may have up to `rejected` of them, each with one input token at least, and
    pairs that are not named; nor has it candidates or anchors then. It has an input token at least. Of
    anything a row holds its length times what a tree has of it for each of its tokens, at most. Longer
    branches lower that ratio, if it is above 1; so it is taken at the shortest, for each number of them.
    """
    most = [row_length, row_length, 0, 0]  # sources, targets, branches and pairs; integers, or it is rounded
    for tree in map(chosen_only, trees):
        for number in range(rejected + 1):
            short = (Branch((0, 0), "rejected"),) * number
            other = replace(tree, branches=tree.branches + short, pairs=None)
            inputs, *counts = size(other, layout, question)
            most = [max(a, row_length * b // max(inputs, 1)) for a, b in zip(most, counts, strict=True)]
    return rounded(row_length, *most)


def pack(
    rows: Sequence[Sequence[AnswerTree]],
    holds: Capacity,
    layout: Layout = "shared",
    question: bool = True,
    sequences: bool = False,
) -> PackedBatch:
    """The arrays of some rows of trees; what is not filled is padding.

    With `question` prefixes are predicted: each has a place among the branches, and targets. With `sequences`
    every tree is one, as documents are, and rows say so: they have no `branch_id`. Raises ValueError if the
    trees of a row do not fit, or one that is to be a sequence has branches.
    """
    for trees in rows:
        sizes = [size(tree, layout, question) for tree in trees]
        taken = [sum(counts) for counts in zip(*sizes, strict=True)]
        if any(n > room for n, room in zip(taken, holds, strict=False)):
            raise ValueError(f"trees that take {Capacity(*taken)} do not fit in {holds}")
        branched = (tree for tree in trees if any(len(p.branches) > 1 for p in pieces(tree, layout)[0]))
        if sequences and (tree := next(branched, None)):
            raise ValueError(f"tree {tree.id} has {len(tree.branches)} branches and is no sequence")

    batch = PackedBatch(*blank(len(rows), FIELD_SPECS, holds._asdict()))
    if holds.sources == holds.time:  # then all hidden states are taken as they lie
        batch.sources[:] = np.arange(holds.time)
    for number, trees in enumerate(rows):
        _fill(PackedBatch(*(field[number : number + 1] for field in batch)), trees, layout, question)
    return batch._replace(branch_id=None) if sequences else batch


def _fill(row: PackedBatch, trees: Sequence[AnswerTree], layout: Layout, question: bool) -> None:
    """Write trees into the arrays of one row, [1, …]."""
    at = source = target = place = pair = sequence = 0

    def predict(indices: Sequence[int], tokens: Sequence[int], branch: Branch | None = None) -> None:
        """Targets that are predicted at `indices` of `time`; they belong to the branch at `place`."""
        nonlocal target, source
        span = np.s_[0, target : target + len(tokens)]
        row.targets[span], row.target_branch[span] = tokens, place
        if row.sources.shape == row.tokens.shape:  # all
            row.source_index[span] = indices
        else:
            fresh = [i for i in indices if not source or i > row.sources[0, source - 1]]
            row.sources[0, source : source + len(fresh)] = fresh
            source += len(fresh)
            row.source_index[span] = np.searchsorted(row.sources[0, :source], indices)
        if branch is not None:
            row.reference_logp[span] = _each(branch.reference_logp, len(tokens), math.nan)
            row.behaviour_logp[span] = _each(branch.behaviour_logp, len(tokens), math.nan)
            row.advantage[span] = _each(branch.advantage, len(tokens), branch.advantage)
        target += len(tokens)

    for tree in trees:
        laid, preferred = pieces(tree, layout)
        weight = sum(b.weight for b in tree.branches if b.role == "chosen")
        stand: list[int] = []  # of the pieces' branches, in `branches`
        for piece in laid:
            at, sequence = at + piece.gap, sequence + 1
            prefix = piece.prefix
            end = at + len(prefix)  # just past the prefix
            row.tokens[0, at:end], row.tree_id[0, at:end] = prefix, sequence
            row.positions[0, at:end] = np.arange(len(prefix))
            if question and piece.asked:
                predict(range(at, end - 1), prefix[1:])
                row.branch_role[0, place], row.branch_share[0, place] = PREFIX, weight > 0
                place += 1
            last = [end - 1] if prefix else []  # the hidden state that predicts each branch's first token
            at = end
            for number, branch in enumerate(piece.branches, start=1):
                read = len(branch.tokens) - 1  # all but the terminator
                span = np.s_[0, at : at + read]
                row.tokens[span], row.tree_id[span] = branch.tokens[:-1], sequence
                row.branch_id[span] = number
                row.positions[span] = len(prefix) + np.arange(read)
                # With nothing before it, a first token is read and not predicted.
                predict([*last, *range(at, at + read)], branch.tokens[not prefix :], branch)
                row.branch_role[0, place] = COPY if piece.copy else ROLES[branch.role]
                if row.branch_role[0, place] == CHOSEN and weight:
                    row.branch_share[0, place] = branch.weight / weight
                known = _each(branch.reference_logp, read + bool(prefix), branch.reference_logp)
                row.branch_reference[0, place] = total(known)
                stand.append(place)
                at, place = at + read, place + 1
        shares = sum(p.weight for p in preferred)
        for chosen, rejected, share in preferred:
            row.pair_chosen[0, pair], row.pair_rejected[0, pair] = stand[chosen], stand[rejected]
            row.pair_share[0, pair], row.pair_weight[0, pair] = share / shares, share
            pair += 1
        row.trees[0] += 1
        row.chosen_trees[0] += weight > 0
        row.paired_trees[0] += shares > 0


def _each(measured: Measured, count: int, default: Measured) -> Measured:
    """What was measured of each of the `count` last tokens; else `default`."""
    return measured[len(measured) - count :] if isinstance(measured, tuple) else default
