"""Packing: which trees share a row, decided from lengths alone, and the arrays of a row."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrainrl_jax.trees.layouts import Layout, Size, pieces
from pretrainrl_jax.trees.rows import COPY, GOLD, NEGATIVE, PREFIX, Rows
from pretrainrl_jax.trees.tree import AnswerTree

OPEN_ROWS = 64  # rows that still accept trees while packing: more fill better, fewer keep the order random


@dataclass(frozen=True)
class Capacity:
    """Static sizes of a row: equal capacities compile once."""

    time: int
    targets: int
    slots: int


def plan(lengths: Sequence[int], row_length: int, order: Sequence[int]) -> list[list[int]]:
    """First-fit packing of trees into rows.

    Trees are taken in `order`, each into the open row with the least room that still holds it.

    Args:
        lengths: input tokens of each tree.
        row_length: input tokens a row holds.
        order: the indices to pack, in the order they are taken.

    Returns:
        The tree indices of each row; together every index of `order` once.

    Raises:
        ValueError: if a tree is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row) of the open rows, sorted
    for index in order:
        length = lengths[index]
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


def _round_up(n: int, multiple: int) -> int:
    return -(-max(n, 1) // multiple) * multiple


def capacity(sizes: Sequence[Size], rows: Sequence[Sequence[int]], row_length: int) -> Capacity:
    """The smallest rounded sizes that hold every row of a plan over trees of these sizes."""
    targets = max((sum(sizes[i].targets for i in row) for row in rows), default=1)
    slots = max((sum(sizes[i].slots for i in row) for row in rows), default=1)
    return Capacity(row_length, _round_up(targets, 64), _round_up(slots, 16))


def fill_row(trees: Sequence[AnswerTree], size: Capacity, layout: Layout = "shared") -> Rows:
    """The arrays of one row, without the leading batch axis; what is not filled is padding."""
    tokens, tree_id, branch_id, positions = (np.zeros(size.time, np.int32) for _ in range(4))
    targets, target_slot = np.zeros(size.targets, np.int32), np.zeros(size.targets, np.int32)
    predictor = np.full(size.targets, -1, np.int32)
    slot_kind, slot_tree = np.zeros(size.slots, np.int32), np.zeros(size.slots, np.int32)
    slot_gold = np.full(size.slots, -1, np.int32)
    slot_reference = np.full(size.slots, np.nan, np.float32)
    at = target = slot = 0
    gold = -1
    laid = [(number, piece) for number, tree in enumerate(trees, start=1) for piece in pieces(tree, layout)]
    for sequence, (number, piece) in enumerate(laid, start=1):
        at += piece.gap
        prefix = piece.prefix
        end = at + len(prefix)  # just past the prefix
        tokens[at:end], tree_id[at:end] = prefix, sequence
        positions[at:end] = np.arange(len(prefix))
        if piece.asked:
            predicted = max(len(prefix) - 1, 0)
            targets[target : target + predicted] = prefix[1:]
            predictor[target : target + predicted] = np.arange(at, at + predicted)
            target_slot[target : target + predicted] = slot
            slot_kind[slot], slot_tree[slot] = PREFIX, number
            target, slot = target + predicted, slot + 1
        golds = [slot + i for i, b in enumerate(piece.branches) if b.kind in (GOLD, COPY)]
        gold = golds[0] if golds else gold  # a piece without one is paired with the gold answer before it
        last = end - 1 if prefix else -1  # the hidden state that predicts each branch's first token
        at = end
        for branch_number, branch in enumerate(piece.branches, start=1):
            read = len(branch.tokens) - 1  # all but the terminator
            tokens[at : at + read], tree_id[at : at + read] = branch.tokens[:-1], sequence
            branch_id[at : at + read] = branch_number
            positions[at : at + read] = len(prefix) + np.arange(read)
            predictors = [last, *range(at, at + read)]
            predicted_tokens = branch.tokens
            if last < 0:  # nothing stands before the first token: it is read and not predicted
                predictors, predicted_tokens = predictors[1:], predicted_tokens[1:]
            span = slice(target, target + len(predictors))
            targets[span], predictor[span], target_slot[span] = predicted_tokens, predictors, slot
            slot_kind[slot], slot_tree[slot] = branch.kind, number
            slot_gold[slot] = gold if branch.kind == NEGATIVE else -1
            slot_reference[slot] = branch.reference_logp
            at, target, slot = at + read, span.stop, slot + 1
    return Rows(
        tokens, tree_id, branch_id, positions, targets, predictor, target_slot,
        slot_kind, slot_tree, slot_gold, slot_reference,
    )  # fmt: skip


def stack(rows: Sequence[Rows]) -> Rows:
    """Rows side by side: [rows, …] on every field."""
    return Rows(*(np.stack(field) for field in zip(*rows, strict=True)))
