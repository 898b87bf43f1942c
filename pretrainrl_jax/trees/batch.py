"""The arrays of packed rows: what every engine reads.

A tree is a prefix and the branches that continue from it. Several trees share a row. A branch's last
token, its terminator, is only ever predicted, so it stands among the targets and not among the inputs: no
step of the decoder is spent on a token that predicts nothing. One hidden state (the prefix's last) predicts
the first token of every branch. Only the hidden states that predict a target meet the vocabulary.

The log-probabilities of targets are summed by branch. A tree's branches stand in their order, after its
prefix where that is predicted itself. Under the literal layout a tree is laid as several sequences, and a
chosen branch stands once in each of its pairs: all but the first are copies.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import nan
from typing import Annotated, Any, NamedTuple

import numpy as np

UNUSED, PREFIX, CHOSEN, REJECTED, CANDIDATE, ANCHOR, COPY = range(7)  # what stands at a branch's place
ROLES = {"chosen": CHOSEN, "rejected": REJECTED, "candidate": CANDIDATE, "anchor": ANCHOR}


class PackedBatch(NamedTuple):
    """Packed rows, [rows, axis] or [rows], int32 or float32: each field's axis, and what its padding is."""

    tokens: Annotated[Any, "time", 0]  # that the decoder reads
    tree_id: Annotated[Any, "time", 0]  # sequences of a row count from 1, one a tree unless literal
    # 0 is the prefix; branches of a tree count from 1. None where every tree is one sequence: documents.
    branch_id: Annotated[Any, "time", 0]
    positions: Annotated[Any, "time", 0]  # every branch continues from the prefix's end
    sources: Annotated[Any, "sources", 0]  # index in `time` of the states that predict; all, where as many
    targets: Annotated[Any, "targets", 0]  # tokens to predict
    source_index: Annotated[Any, "targets", -1]  # index in `sources` of the hidden state that predicts
    target_branch: Annotated[Any, "targets", 0]  # index in `branches` its log-probability is summed into
    reference_logp: Annotated[Any, "targets", nan]  # where it is known a token, else NaN
    behaviour_logp: Annotated[Any, "targets", nan]  # likewise
    advantage: Annotated[Any, "targets", nan]  # likewise; a whole branch's stands at each of its tokens
    branch_role: Annotated[Any, "branches", UNUSED]  # PREFIX, CHOSEN, …
    branch_share: Annotated[Any, "branches", 0.0]  # weights of a tree's chosen ones, together 1; prefix: 1
    branch_reference: Annotated[Any, "branches", nan]  # log-probability, summed; NaN where unscored
    pair_chosen: Annotated[Any, "pairs", 0]  # index in `branches`
    pair_rejected: Annotated[Any, "pairs", 0]  # index in `branches`
    pair_share: Annotated[Any, "pairs", 0.0]  # weights of a tree's pairs, together 1
    pair_weight: Annotated[Any, "pairs", 0.0]  # as the tree states it
    trees: Annotated[Any, "", 0]  # how many
    chosen_trees: Annotated[Any, "", 0]  # with a chosen branch whose weight is not 0
    paired_trees: Annotated[Any, "", 0]  # with a pair


FIELD_SPECS = PackedBatch(*(hint.__metadata__ for hint in PackedBatch.__annotations__.values()))


def blank(rows: int, specs: Iterable[tuple[Any, float]], sizes: Mapping[str, int]) -> Iterator[np.ndarray]:
    """An array of padding for each field, whose axes, joined with spaces, and padding its spec says."""
    for axes, fill in specs:
        shape = (rows, *(sizes[axis] for axis in axes.split()))
        yield np.full(shape, fill, np.float32 if isinstance(fill, float) else np.int32)
