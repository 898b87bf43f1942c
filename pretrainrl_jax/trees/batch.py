"""The arrays of packed rows: what every engine reads.

A tree is a prefix and the branches that continue from it. Several trees share a row. A branch's last
token, its terminator, is only ever predicted, so it stands among the targets and not among the inputs: no
step of the decoder is spent on a token that predicts nothing. One hidden state (the prefix's last) predicts
the first token of every branch. Only the hidden states that predict a target meet the vocabulary.

The log-probabilities of targets are summed by branch. A tree's branches stand in their order, after its
prefix where that is predicted itself. Under the literal layout a tree is laid as several sequences, and a
chosen branch stands once in each of its pairs: all but the first are copies.
"""

import math
from typing import Any, NamedTuple

UNUSED, PREFIX, CHOSEN, REJECTED, CANDIDATE, ANCHOR, COPY = range(7)  # what stands at a branch's place
ROLES = {"chosen": CHOSEN, "rejected": REJECTED, "candidate": CANDIDATE, "anchor": ANCHOR}


class PackedBatch(NamedTuple):
    """Packed rows; a leading batch axis [rows, …] on every field. int32 where nothing else is said."""

    tokens: Any  # [rows, time] input tokens
    tree_id: Any  # [rows, time] 0 is padding; sequences of a row count from 1, one a tree unless literal
    branch_id: Any  # [rows, time] 0 is the prefix; branches of a tree count from 1
    positions: Any  # [rows, time] every branch continues from the prefix's end
    sources: Any  # [rows, sources] index in `time` of the hidden states that predict; all, where as many
    targets: Any  # [rows, targets] tokens to predict
    source_index: Any  # [rows, targets] index in `sources` of the hidden state that predicts; -1 is padding
    target_branch: Any  # [rows, targets] index in `branches` the target's log-probability is summed into
    reference_logp: Any  # [rows, targets] float32 where it is known a token, else NaN
    behaviour_logp: Any  # [rows, targets] float32, likewise
    advantage: Any  # [rows, targets] float32, likewise; one of a whole branch stands at each of its tokens
    branch_role: Any  # [rows, branches] UNUSED, PREFIX, CHOSEN, …
    branch_share: Any  # [rows, branches] float32, weights of a tree's chosen ones, together 1; prefix: 1
    branch_reference: Any  # [rows, branches] float32 reference log-probability, summed; NaN where unscored
    pair_chosen: Any  # [rows, pairs] index in `branches`
    pair_rejected: Any  # [rows, pairs] index in `branches`
    pair_share: Any  # [rows, pairs] float32, weights of a tree's pairs, together 1; 0 is padding
    trees: Any  # [rows] trees
    chosen_trees: Any  # [rows] trees with a chosen branch whose weight is not 0
    paired_trees: Any  # [rows] trees with a pair


# The axis and the padding of each field; int32 or float32.
LAID = PackedBatch(
    tokens=("time", 0),
    tree_id=("time", 0),
    branch_id=("time", 0),
    positions=("time", 0),
    sources=("sources", 0),
    targets=("targets", 0),
    source_index=("targets", -1),
    target_branch=("targets", 0),
    reference_logp=("targets", math.nan),
    behaviour_logp=("targets", math.nan),
    advantage=("targets", math.nan),
    branch_role=("branches", UNUSED),
    branch_share=("branches", 0.0),
    branch_reference=("branches", math.nan),
    pair_chosen=("pairs", 0),
    pair_rejected=("pairs", 0),
    pair_share=("pairs", 0.0),
    trees=("", 0),
    chosen_trees=("", 0),
    paired_trees=("", 0),
)
