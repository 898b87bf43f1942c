"""The arrays of packed rows: what every engine reads.

A tree is a prefix and the branches that continue from it. Several trees share a row. A branch's last
token, its terminator, is only ever predicted, so it stands among the targets and not among the inputs: each
input token's hidden state predicts something, and no step of the decoder is spent on a token that
predicts nothing. One hidden state (the prefix's last) predicts the first token of every branch.

The log-probabilities of targets are summed by slot. Each tree has one slot for its prefix and one for
each branch, in that order. Under the literal layout a tree is laid as several sequences, and its gold answer
stands once in each pair: all but the first are copies.
"""

from typing import Any, NamedTuple

UNUSED, PREFIX, GOLD, NEGATIVE, COPY = 0, 1, 2, 3, 4  # what a slot holds


class Rows(NamedTuple):
    """Packed rows; a leading batch axis [rows, …] on every field. All int32 but `slot_reference`."""

    tokens: Any  # [rows, time] input tokens
    tree_id: Any  # [rows, time] 0 is padding; sequences of a row count from 1, one a tree unless literal
    branch_id: Any  # [rows, time] 0 is the prefix; branches of a tree count from 1
    positions: Any  # [rows, time] every branch continues from the prefix's end
    targets: Any  # [rows, targets] tokens to predict
    predictor: Any  # [rows, targets] index in `time` of the hidden state that predicts; -1 is padding
    target_slot: Any  # [rows, targets] index in `slots` the target's log-probability is summed into
    slot_kind: Any  # [rows, slots] UNUSED, PREFIX, GOLD, NEGATIVE or COPY (of the gold answer)
    slot_tree: Any  # [rows, slots] the slot's tree, counted from 1 in each row; 0 where unused
    slot_gold: Any  # [rows, slots] for a NEGATIVE, the slot of the gold answer beside it; -1 elsewhere
    slot_reference: Any  # [rows, slots] float32, reference log-probability of a branch; NaN where unscored
